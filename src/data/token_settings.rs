//! The settings of rows and positions, spelled as SAELens spells them.

use super::Tokenizer;
use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// What stands between two documents in a row: SAELens' `sequence_separator_token`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SequenceSeparator {
    /// Nothing.
    None,
    /// The tokenizer's bos.
    #[default]
    Bos,
    /// The tokenizer's eos.
    Eos,
    /// The tokenizer's sep.
    Sep,
    /// This token.
    Id(u32),
}

impl SequenceSeparator {
    /// The token. Error: the tokenizer has none of that role.
    pub fn token(self, tokenizer: &Tokenizer) -> Result<Option<u32>> {
        let token = match self {
            SequenceSeparator::None => return Ok(None),
            SequenceSeparator::Id(id) => return Ok(Some(id)),
            SequenceSeparator::Bos => tokenizer.bos_token_id(),
            SequenceSeparator::Eos => tokenizer.eos_token_id(),
            SequenceSeparator::Sep => tokenizer.sep_token_id(),
        };
        token.map(Some).ok_or_else(|| {
            let what = format!("the tokenizer has no {self} token; use a token id or none");
            Error::config("sequence_separator_token", what)
        })
    }
}

impl fmt::Display for SequenceSeparator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SequenceSeparator::None => write!(f, "none"),
            SequenceSeparator::Bos => write!(f, "bos"),
            SequenceSeparator::Eos => write!(f, "eos"),
            SequenceSeparator::Sep => write!(f, "sep"),
            SequenceSeparator::Id(id) => write!(f, "{id}"),
        }
    }
}

impl FromStr for SequenceSeparator {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "none" => SequenceSeparator::None,
            "bos" => SequenceSeparator::Bos,
            "eos" => SequenceSeparator::Eos,
            "sep" => SequenceSeparator::Sep,
            _ => SequenceSeparator::Id(text.parse().map_err(|_| {
                let what = format!("{text:?} is not possible; expected bos, eos, sep, none or a token id");
                Error::config("sequence_separator_token", what)
            })?),
        })
    }
}

/// Positions whose token is left out of training: SAELens' `exclude_special_tokens`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ExcludeSpecialTokens {
    /// None are left out.
    #[default]
    No,
    /// The tokenizer's bos, eos, pad and sep.
    Special,
    /// These ids.
    Ids(Vec<u32>),
}

impl ExcludeSpecialTokens {
    /// The ids to leave out.
    pub fn ids(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        match self {
            ExcludeSpecialTokens::No => Vec::new(),
            ExcludeSpecialTokens::Special => tokenizer.special_ids(),
            ExcludeSpecialTokens::Ids(ids) => ids.clone(),
        }
    }
}

impl fmt::Display for ExcludeSpecialTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExcludeSpecialTokens::No => write!(f, "false"),
            ExcludeSpecialTokens::Special => write!(f, "true"),
            ExcludeSpecialTokens::Ids(ids) => {
                write!(f, "{}", ids.iter().map(u32::to_string).collect::<Vec<_>>().join(","))
            }
        }
    }
}

impl FromStr for ExcludeSpecialTokens {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "false" => ExcludeSpecialTokens::No,
            "true" => ExcludeSpecialTokens::Special,
            _ => ExcludeSpecialTokens::Ids(
                text.split(',').map(|id| id.trim().parse()).collect::<Result<_, _>>().map_err(|_| {
                    let what = format!("{text:?} is not possible; expected true, false or token ids such as 0,50256");
                    Error::config("exclude_special_tokens", what)
                })?,
            ),
        })
    }
}

/// Which positions of a row are used: SAELens' `seqpos_slice`, Python's `slice(start, stop, step)`,
/// spelled `start:stop:step`; empty parts mean what they mean in Python.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeqposSlice {
    /// First position; negative counts from the end.
    pub start: Option<i64>,
    /// First position not used; negative counts from the end.
    pub stop: Option<i64>,
    /// Distance, at least 1.
    pub step: Option<i64>,
}

impl SeqposSlice {
    /// The positions in a row of `context` tokens, ascending. Error: there are none.
    pub fn positions(&self, context: usize) -> Result<Vec<usize>> {
        let length = context as i64;
        let clamp = |at: i64| if at < 0 { (at + length).max(0) } else { at.min(length) };
        let (start, stop) = (clamp(self.start.unwrap_or(0)), clamp(self.stop.unwrap_or(length)));
        let step = self.step.unwrap_or(1).max(1) as usize;
        let positions: Vec<usize> = (start..stop).step_by(step).map(|at| at as usize).collect();
        if positions.is_empty() {
            return Err(Error::config("seqpos_slice", format!("{self} leaves no position of a context of {context}")));
        }
        Ok(positions)
    }

    /// As SAELens writes it to `cfg.json`: the arguments of Python's `slice`, `[null]` for all.
    pub fn to_config(&self) -> Vec<Option<i64>> {
        match *self {
            SeqposSlice { start: None, stop: None, step: None } => vec![None],
            SeqposSlice { start, stop, step: None } => vec![start, stop],
            SeqposSlice { start, stop, step } => vec![start, stop, step],
        }
    }

    /// From the arguments of Python's `slice`: one is `stop`, two are `start` and `stop`.
    pub fn from_config(arguments: &[Option<i64>]) -> Result<Self> {
        let (start, stop, step) = match *arguments {
            [stop] => (None, stop, None),
            [start, stop] => (start, stop, None),
            [start, stop, step] => (start, stop, step),
            _ => return Err(Error::config("seqpos_slice", "expected one to three numbers")),
        };
        if step.is_some_and(|step| step < 1) {
            return Err(Error::config("seqpos_slice", "the step must be at least 1"));
        }
        Ok(SeqposSlice { start, stop, step })
    }
}

impl fmt::Display for SeqposSlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |part: Option<i64>| part.map_or(String::new(), |at| at.to_string());
        write!(f, "{}:{}", text(self.start), text(self.stop))?;
        self.step.map_or(Ok(()), |step| write!(f, ":{step}"))
    }
}

impl FromStr for SeqposSlice {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let part = |part: &str| match part.trim() {
            "" => Ok(None),
            number => number.parse().map(Some),
        };
        let parts: Result<Vec<Option<i64>>, _> = text.split(':').map(part).collect();
        match parts {
            Ok(parts) if (2..=3).contains(&parts.len()) => Self::from_config(&parts),
            _ => {
                let what = format!("{text:?} is not possible; expected start:stop or start:stop:step, such as 5:-5");
                Err(Error::config("seqpos_slice", what))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_chooses_the_positions_that_python_chooses() {
        // list(range(8))[slice(...)]
        for (text, expected) in [
            (":", vec![0, 1, 2, 3, 4, 5, 6, 7]),
            ("5:", vec![5, 6, 7]),
            (":3", vec![0, 1, 2]),
            ("2:-2", vec![2, 3, 4, 5]),
            ("-3:", vec![5, 6, 7]),
            ("1:100:3", vec![1, 4, 7]),
            ("-100:2", vec![0, 1]),
        ] {
            let slice: SeqposSlice = text.parse().unwrap();
            assert_eq!(slice.positions(8).unwrap(), expected, "{text}");
            assert_eq!(slice.to_string(), text);
            assert_eq!(SeqposSlice::from_config(&slice.to_config()).unwrap(), slice);
        }
    }

    #[test]
    fn a_single_slice_argument_is_where_it_stops() {
        let slice = SeqposSlice::from_config(&[Some(3)]).unwrap();
        assert_eq!(slice.positions(8).unwrap(), [0, 1, 2]);
    }

    #[test]
    fn a_slice_without_positions_and_one_that_is_none_are_refused() {
        let error = |text: &str| text.parse::<SeqposSlice>().and_then(|s| s.positions(8)).unwrap_err().to_string();
        assert_eq!(error("5:5"), "seqpos_slice: 5:5 leaves no position of a context of 8");
        assert!(error("8:").contains("leaves no position"));
        assert!(error("1:2:0").contains("the step must be at least 1"));
        assert!(error("5").contains("expected start:stop"));
        assert!(error("a:b").contains("expected start:stop"));
    }

    #[test]
    fn separators_and_excluded_tokens_are_read_and_written_alike() {
        for text in ["none", "bos", "eos", "sep", "50256"] {
            assert_eq!(text.parse::<SequenceSeparator>().unwrap().to_string(), text);
        }
        assert!("dot".parse::<SequenceSeparator>().unwrap_err().to_string().contains("expected bos, eos, sep, none"));
        for text in ["true", "false", "0,50256"] {
            assert_eq!(text.parse::<ExcludeSpecialTokens>().unwrap().to_string(), text);
        }
        assert!("maybe".parse::<ExcludeSpecialTokens>().is_err());
    }
}
