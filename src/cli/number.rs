//! Numbers in flags: digits may be grouped by underscores, as in recipes, `--max-tokens 50_000`.

use std::fmt::Display;
use std::str::FromStr;

/// A finite number with or without underscores between its digits. Error: what is wrong with it.
pub fn number<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let groups = (0..bytes.len()).filter(|&at| bytes[at] == b'_').all(|at| at > 0 && digit(at - 1) && digit(at + 1));
    if !groups {
        return Err("underscores belong between digits".to_string());
    }
    match text.replace('_', "").parse() {
        // What Rust also reads as a number: nan, inf, infinity.
        Ok(_) if bytes.iter().any(|byte| b"nN".contains(byte)) => Err("expected a finite number".to_string()),
        parsed => parsed.map_err(|error: T::Err| error.to_string()),
    }
}

/// A whole number that is not 0.
pub fn number_from_1(text: &str) -> Result<usize, String> {
    match number(text)? {
        0 => Err("expected at least 1".to_string()),
        n => Ok(n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn underscores_group_digits_and_are_nowhere_else() {
        assert_eq!((number("50_000"), number("-1_0"), number("0.000_5")), (Ok(50_000u32), Ok(-10i64), Ok(0.0005f32)));
        for wrong in ["_5", "5_", "5__0", "-_5", "5_.0"] {
            assert_eq!(number::<f32>(wrong), Err("underscores belong between digits".to_string()), "{wrong}");
        }
        for wrong in ["nan", "-NaN", "inf", "+Infinity"] {
            assert_eq!(number::<f32>(wrong), Err("expected a finite number".to_string()), "{wrong}");
        }
        assert_eq!(number::<u32>("many"), Err("invalid digit found in string".to_string()));
        assert_eq!((number_from_1("1_0"), number_from_1("0")), (Ok(10), Err("expected at least 1".to_string())));
    }
}
