//! TensorBoard event files: records of protobuf messages, each guarded by checksums.
//!
//! Sources: TensorFlow's `core/lib/io/record_writer.h` (the records), `core/util/event.proto` and
//! `core/framework/summary.proto` (the messages).

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// An event file that grows.
pub struct EventFile {
    path: PathBuf,
    file: BufWriter<File>,
}

impl EventFile {
    /// Begins a new event file in `folder`. Data of `first_step` and later that older files in the
    /// folder hold are superseded. Error: it cannot be written.
    pub fn create(folder: &Path, first_step: u64) -> Result<Self> {
        let path = free_path(folder);
        let file = File::create_new(&path).map_err(Error::io(&path, "create"))?;
        let mut events = EventFile { path, file: BufWriter::new(file) };
        events.write(Message::default().bytes(3, b"brain.Event:2"))?;
        // SessionLog { status: START }: readers drop what they know of this step and later.
        events.write(Message::default().varint(2, first_step).bytes(7, &Message::default().varint(1, 1).0))?;
        Ok(events)
    }

    /// Adds numbers of one step.
    pub fn scalars<'a>(&mut self, step: u64, values: impl Iterator<Item = (&'a str, f64)>) -> Result<()> {
        self.write(scalars(step, values))
    }

    /// Adds the distribution of `values`, of which those that are not finite are left out.
    pub fn histogram(&mut self, step: u64, tag: &str, values: &[f32]) -> Result<()> {
        let value = Message::default().bytes(1, tag.as_bytes()).bytes(5, &histogram(values).0);
        self.write(summary(step, Message::default().bytes(1, &value.0)))
    }

    /// Hands everything written so far to the system.
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(Error::io(&self.path, "write"))
    }

    fn write(&mut self, event: Message) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let event = Message::default().double(1, now).append(event);
        self.file.write_all(&record(&event.0)).map_err(Error::io(&self.path, "write"))
    }
}

/// A name that sorts after those of the folder's older event files, as readers take them in order.
fn free_path(folder: &Path) -> PathBuf {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let numbered = |number: u32| folder.join(format!("events.out.tfevents.{now}.cusae.{number}"));
    (0..).map(numbered).find(|path| !path.exists()).expect("numbers do not end")
}

/// The fields of an event with a `Summary`.
fn summary(step: u64, summary: Message) -> Message {
    Message::default().varint(2, step).bytes(5, &summary.0)
}

fn scalars<'a>(step: u64, values: impl Iterator<Item = (&'a str, f64)>) -> Message {
    let value = |(tag, value): (&str, f64)| Message::default().bytes(1, tag.as_bytes()).float(2, value as f32);
    summary(step, values.fold(Message::default(), |all, one| all.bytes(1, &value(one).0)))
}

/// `HistogramProto` with thirty buckets of equal width.
fn histogram(values: &[f32]) -> Message {
    const BUCKETS: usize = 30;
    let finite: Vec<f64> = values.iter().filter(|value| value.is_finite()).map(|&value| value.into()).collect();
    if finite.is_empty() {
        return Message::default();
    }
    let (min, max) = finite.iter().fold((f64::MAX, f64::MIN), |(min, max), &value| (min.min(value), max.max(value)));
    let width = if max > min { (max - min) / BUCKETS as f64 } else { 1.0 };
    let mut counts = [0.0; BUCKETS];
    for value in &finite {
        counts[(((value - min) / width) as usize).min(BUCKETS - 1)] += 1.0;
    }
    let limits: Vec<f64> = (1..=BUCKETS).map(|bucket| min + width * bucket as f64).collect();
    Message::default()
        .double(1, min)
        .double(2, max)
        .double(3, finite.len() as f64)
        .double(4, finite.iter().sum())
        .double(5, finite.iter().map(|value| value * value).sum())
        .doubles(6, &limits)
        .doubles(7, &counts)
}

/// A protobuf message under construction. Source: protobuf's encoding guide.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn tag(mut self, field: u64, wire_type: u64) -> Self {
        push_varint(&mut self.0, field << 3 | wire_type);
        self
    }

    fn varint(self, field: u64, value: u64) -> Self {
        let mut message = self.tag(field, 0);
        push_varint(&mut message.0, value);
        message
    }

    fn double(self, field: u64, value: f64) -> Self {
        let mut message = self.tag(field, 1);
        message.0.extend(value.to_le_bytes());
        message
    }

    fn float(self, field: u64, value: f32) -> Self {
        let mut message = self.tag(field, 5);
        message.0.extend(value.to_le_bytes());
        message
    }

    fn bytes(self, field: u64, bytes: &[u8]) -> Self {
        let mut message = self.tag(field, 2);
        push_varint(&mut message.0, bytes.len() as u64);
        message.0.extend(bytes);
        message
    }

    fn doubles(self, field: u64, values: &[f64]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.bytes(field, &bytes)
    }

    fn append(mut self, fields: Message) -> Self {
        self.0.extend(fields.0);
        self
    }
}

fn push_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// A TFRecord: length, its checksum, the data, their checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let parts: [&[u8]; 4] = [&length, &masked_crc32c(&length).to_le_bytes(), data, &masked_crc32c(data).to_le_bytes()];
    parts.concat()
}

/// CRC-32C, rotated and shifted so that a checksum of checksums is no fixed point.
fn masked_crc32c(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: events are small.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The check value of CRC-32C in the catalogue of parametrised CRC algorithms.
    #[test]
    fn the_checksum_has_its_known_value() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    /// What tensorboard 2.21's own RecordWriter writes for
    /// `Event(wall_time=1.5, step=300)` with the summary values `metrics/l0 = 32.25` and `b = -0.5`.
    #[test]
    fn a_record_of_scalars_is_what_tensorboard_writes() {
        let fields = scalars(300, [("metrics/l0", 32.25), ("b", -0.5)].into_iter());
        assert_eq!(
            hex(&record(&Message::default().double(1, 1.5).append(fields).0)),
            "2b00000000000000861bc34b09000000000000f83f10ac022a1d0a110a0a6d6574726963732f6c3015000001\
             420a080a016215000000bf5f99fc1f"
        );
    }

    #[test]
    fn a_histogram_counts_every_finite_value_once() {
        let values: Vec<f32> = (0..=60).map(|i| i as f32).chain([f32::NAN, f32::INFINITY]).collect();
        let bytes = histogram(&values).0;
        // min, max, num, sum, sum of squares, then thirty limits 2, 4, … 60 and thirty counts: two
        // values in each bucket and the largest in the last.
        let expected = Message::default()
            .double(1, 0.0)
            .double(2, 60.0)
            .double(3, 61.0)
            .double(4, 1830.0)
            .double(5, 73_810.0)
            .doubles(6, &(1..=30).map(|limit| 2.0 * f64::from(limit)).collect::<Vec<_>>())
            .doubles(7, &[[2.0; 29].as_slice(), &[3.0]].concat());
        assert_eq!(hex(&bytes), hex(&expected.0));
        assert!(histogram(&[]).0.is_empty());
    }

    #[test]
    fn equal_values_fall_into_one_bucket() {
        let bytes = histogram(&[5.0; 4]).0;
        let counts = Message::default().doubles(7, &[[4.0].as_slice(), &[0.0; 29]].concat());
        assert!(hex(&bytes).ends_with(&hex(&counts.0)));
    }
}
