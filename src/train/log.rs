//! The logs of a run: `metrics.jsonl`, one object a line, and TensorBoard event files beside it.
//!
//! A line holds `step` (steps done), `n_training_samples` (tokens seen) and then whatever was
//! measured, by the keys of SAELens' wandb logs. There is no time in it: the file of a resumed run is
//! that of an uninterrupted one, byte for byte. TensorBoard's files carry times.

use super::tensorboard::EventFile;
use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

/// What was measured in one step, by key; a number that is not finite is null.
pub type Metrics = Map<String, Value>;

/// The logs of one run.
pub struct Log {
    path: PathBuf,
    lines: BufWriter<File>,
    tensorboard: Option<EventFile>,
}

impl Log {
    /// Opens the logs in a run folder, after `step` steps: 0 for a new run. Lines of later steps, which
    /// an interrupted run may have written after its last checkpoint, are cut off.
    /// Error: a file cannot be written, or a line up to `step` is no metrics line.
    pub fn open(folder: &Path, step: u64, tensorboard: bool) -> Result<Self> {
        let path = folder.join("metrics.jsonl");
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = opened.map_err(Error::io(&path, "open"))?;
        let length = length_up_to(&path, &file, step)?;
        file.set_len(length).map_err(Error::io(&path, "truncate"))?;
        file.seek(std::io::SeekFrom::Start(length)).map_err(Error::io(&path, "seek"))?;
        let tensorboard = if tensorboard { Some(EventFile::create(folder, step + 1)?) } else { None };
        Ok(Log { path, lines: BufWriter::new(file), tensorboard })
    }

    /// Adds what was measured after `step` steps and `n_training_samples` tokens.
    pub fn write(&mut self, step: u64, n_training_samples: u64, metrics: &Metrics) -> Result<()> {
        let mut line = Metrics::new();
        line.insert("step".into(), step.into());
        line.insert("n_training_samples".into(), n_training_samples.into());
        line.extend(metrics.iter().map(|(key, value)| (key.clone(), value.clone())));
        writeln!(self.lines, "{}", Value::Object(line)).map_err(Error::io(&self.path, "write"))?;
        match &mut self.tensorboard {
            Some(events) => {
                let number = |(key, value): (&'_ String, &Value)| Some((key.clone(), value.as_f64()?));
                let numbers: Vec<_> = metrics.iter().filter_map(number).collect();
                events.scalars(step, numbers.iter().map(|(key, value)| (key.as_str(), *value)))
            }
            None => Ok(()),
        }
    }

    /// Adds a distribution, for TensorBoard alone.
    pub fn histogram(&mut self, step: u64, key: &str, values: &[f32]) -> Result<()> {
        self.tensorboard.as_mut().map_or(Ok(()), |events| events.histogram(step, key, values))
    }

    /// Writes everything to disk: before a checkpoint relies on it, and at the end.
    pub fn sync(&mut self) -> Result<()> {
        self.lines.flush().map_err(Error::io(&self.path, "write"))?;
        self.lines.get_ref().sync_all().map_err(Error::io(&self.path, "sync"))?;
        self.tensorboard.as_mut().map_or(Ok(()), EventFile::flush)
    }
}

/// Bytes of the whole lines of steps up to `step`; the first line of a later step, or without its
/// end, and all after it do not count.
fn length_up_to(path: &Path, file: &File, step: u64) -> Result<u64> {
    let mut reader = BufReader::new(file);
    let mut length = 0;
    let mut line = String::new();
    for number in 1.. {
        line.clear();
        let bytes = reader.read_line(&mut line).map_err(Error::io(path, "read"))? as u64;
        if !line.ends_with('\n') {
            break;
        }
        let of = serde_json::from_str::<Value>(&line).ok().and_then(|line| line["step"].as_u64());
        let of =
            of.ok_or_else(|| Error::format(path, format!("line {number} is no metrics line (no \"step\" in it)")))?;
        if of > step {
            break;
        }
        length += bytes;
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn metrics(loss: f64) -> Metrics {
        [("losses/overall_loss".to_owned(), Value::from(loss)), ("sparsity/dead_features".to_owned(), 3.into())]
            .into_iter()
            .collect()
    }

    fn write_steps(folder: &Path, done: u64, steps: std::ops::RangeInclusive<u64>) {
        let mut log = Log::open(folder, done, false).unwrap();
        for step in steps {
            log.write(step, 64 * step, &metrics(step as f64 / 7.0)).unwrap();
        }
        log.sync().unwrap();
    }

    #[test]
    fn a_line_is_one_object_with_the_step_first() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path(), 0, false).unwrap();
        log.write(10, 640, &metrics(0.5)).unwrap();
        log.write(20, 1280, &metrics(f64::NAN)).unwrap();
        log.sync().unwrap();
        let text = fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
        assert_eq!(
            text,
            "{\"step\":10,\"n_training_samples\":640,\"losses/overall_loss\":0.5,\"sparsity/dead_features\":3}\n\
             {\"step\":20,\"n_training_samples\":1280,\"losses/overall_loss\":null,\"sparsity/dead_features\":3}\n"
        );
    }

    #[test]
    fn the_file_of_a_resumed_run_is_that_of_an_uninterrupted_one() {
        let (whole, resumed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_steps(whole.path(), 0, 1..=9);
        write_steps(resumed.path(), 0, 1..=6);
        // The checkpoint was written after step 4; the machine stopped in the midst of a line.
        let path = resumed.path().join("metrics.jsonl");
        let mut half_a_line = OpenOptions::new().append(true).open(&path).unwrap();
        half_a_line.write_all(b"{\"step\":7,\"n_tr").unwrap();
        write_steps(resumed.path(), 4, 5..=9);
        assert_eq!(fs::read(&path).unwrap(), fs::read(whole.path().join("metrics.jsonl")).unwrap());
    }

    #[test]
    fn a_new_run_begins_with_an_empty_file() {
        let folder = tempfile::tempdir().unwrap();
        write_steps(folder.path(), 0, 1..=9);
        Log::open(folder.path(), 0, false).unwrap();
        assert_eq!(fs::metadata(folder.path().join("metrics.jsonl")).unwrap().len(), 0);
    }

    #[test]
    fn a_line_that_is_not_ours_is_refused_by_number() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("metrics.jsonl"), "{\"step\":1}\nhello\n").unwrap();
        let message = Log::open(folder.path(), 5, false).err().unwrap().to_string();
        assert!(message.contains("metrics.jsonl: line 2 is no metrics line"), "{message}");
    }

    #[test]
    fn event_files_are_written_only_where_wanted_and_one_for_each_start() {
        let folder = tempfile::tempdir().unwrap();
        let event_files = || fs::read_dir(folder.path()).unwrap().count() - 1;
        drop(Log::open(folder.path(), 0, false).unwrap());
        assert_eq!(event_files(), 0);
        drop(Log::open(folder.path(), 0, true).unwrap());
        drop(Log::open(folder.path(), 0, true).unwrap());
        assert_eq!(event_files(), 2);
    }
}
