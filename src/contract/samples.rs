//! Sample files: what the trainer would see, in that order, without Kafka; or held-out lists, which
//! it must never see.
//!
//! Two forms, told apart by the file's extension: `.pb`, length-delimited protobuf, and `.jsonl`,
//! one [`Sample`] per line in proto3's JSON mapping.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use prost::Message;

use super::v1::Sample;

/// A longer sample is refused: it would be a broken length, not a sample.
const MAX_SAMPLE_BYTES: u64 = 64 << 20;

/// A sample file cannot be written, or read on.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each says what it is")]
pub enum SampleError {
    #[error("'{path}' is not a sample file: its name must end in .pb or .jsonl")]
    Extension { path: PathBuf },
    #[error("'{path}': {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("'{path}', sample {number}: {detail}")]
    Malformed { path: PathBuf, number: u64, detail: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Protobuf,
    JsonLines,
}

fn form(path: &Path) -> Result<Form, SampleError> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("pb") => Ok(Form::Protobuf),
        Some("jsonl") => Ok(Form::JsonLines),
        _ => Err(SampleError::Extension { path: path.to_owned() }),
    }
}

/// Whether this can be the name of a sample file.
///
/// # Errors
/// [`SampleError::Extension`].
pub fn check_name(path: &Path) -> Result<(), SampleError> {
    form(path).map(|_| ())
}

/// Writes a sample file. Call [`finish`](SampleWriter::finish): a file that is only dropped may
/// lack its end.
#[derive(Debug)]
pub struct SampleWriter {
    path: PathBuf,
    form: Form,
    file: BufWriter<File>,
}

impl SampleWriter {
    /// Creates the file, or empties the one that is there.
    pub fn create(path: impl Into<PathBuf>) -> Result<SampleWriter, SampleError> {
        let path = path.into();
        let form = form(&path)?;
        match File::create(&path) {
            Ok(file) => Ok(SampleWriter { path, form, file: BufWriter::new(file) }),
            Err(source) => Err(SampleError::Io { path, source }),
        }
    }

    /// Appends a sample.
    ///
    /// # Errors
    /// [`SampleError::Io`].
    pub fn write(&mut self, sample: &Sample) -> Result<(), SampleError> {
        let written = match self.form {
            Form::Protobuf => self.file.write_all(&sample.encode_length_delimited_to_vec()),
            Form::JsonLines => serde_json::to_writer(&mut self.file, sample)
                .map_err(io::Error::from)
                .and_then(|()| self.file.write_all(b"\n")),
        };
        written.map_err(|source| SampleError::Io { path: self.path.clone(), source })
    }

    /// Puts what is buffered into the file.
    ///
    /// # Errors
    /// [`SampleError::Io`].
    pub fn finish(mut self) -> Result<(), SampleError> {
        self.file.flush().map_err(|source| SampleError::Io { path: self.path, source })
    }
}

/// Reads a sample file, one sample at a time. After an error it ends.
#[derive(Debug)]
pub struct SampleReader {
    path: PathBuf,
    form: Form,
    file: BufReader<File>,
    samples: u64,
    bytes: u64,
    ended: bool,
}

impl SampleReader {
    /// Opens a file that is there.
    ///
    /// # Errors
    /// [`SampleError::Extension`], [`SampleError::Io`].
    pub fn open(path: impl Into<PathBuf>) -> Result<SampleReader, SampleError> {
        let path = path.into();
        let form = form(&path)?;
        match File::open(&path) {
            Ok(file) => Ok(SampleReader {
                path,
                form,
                file: BufReader::new(file),
                samples: 0,
                bytes: 0,
                ended: false,
            }),
            Err(source) => Err(SampleError::Io { path, source }),
        }
    }

    /// Bytes of the file read so far, for progress.
    pub fn bytes_read(&self) -> u64 {
        self.bytes
    }

    fn read(&mut self) -> Result<Option<Sample>, SampleError> {
        let read = match self.form {
            Form::Protobuf => self.read_delimited(),
            Form::JsonLines => self.read_line(),
        };
        read.map_err(|fault| match fault {
            Fault::Io(source) => SampleError::Io { path: self.path.clone(), source },
            Fault::Malformed(detail) => {
                SampleError::Malformed { path: self.path.clone(), number: self.samples + 1, detail }
            }
        })
    }

    fn read_delimited(&mut self) -> Result<Option<Sample>, Fault> {
        let Some(length) = self.read_length()? else { return Ok(None) };
        if length > MAX_SAMPLE_BYTES {
            return Err(Fault::Malformed(format!("{length} bytes, at most {MAX_SAMPLE_BYTES} are taken")));
        }
        let mut message = Vec::new();
        self.file.by_ref().take(length).read_to_end(&mut message)?;
        if (message.len() as u64) < length {
            return Err(Fault::Malformed("the file ends within it".to_owned()));
        }
        self.bytes += length;
        Sample::decode(message.as_slice()).map(Some).map_err(|error| Fault::Malformed(error.to_string()))
    }

    /// The varint before a message; `None` at the end of the file.
    fn read_length(&mut self) -> Result<Option<u64>, Fault> {
        let mut prefix = Vec::with_capacity(10);
        for byte in self.file.by_ref().bytes().take(10) {
            let byte = byte?;
            prefix.push(byte);
            if byte < 0x80 {
                break;
            }
        }
        self.bytes += prefix.len() as u64;
        if prefix.is_empty() {
            return Ok(None);
        }
        prost::encoding::decode_varint(&mut prefix.as_slice())
            .map(Some)
            .map_err(|_| Fault::Malformed("its length is broken".to_owned()))
    }

    fn read_line(&mut self) -> Result<Option<Sample>, Fault> {
        loop {
            let mut line = Vec::new();
            let read = self.file.by_ref().take(MAX_SAMPLE_BYTES).read_until(b'\n', &mut line)?;
            self.bytes += read as u64;
            if read == 0 {
                return Ok(None);
            }
            if !line.trim_ascii().is_empty() {
                let sample = serde_json::from_slice(&line);
                return sample.map(Some).map_err(|error| Fault::Malformed(error.to_string()));
            }
        }
    }
}

impl Iterator for SampleReader {
    type Item = Result<Sample, SampleError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let read = self.read();
        self.ended = !matches!(read, Ok(Some(_)));
        self.samples += 1;
        read.transpose()
    }
}

enum Fault {
    Io(io::Error),
    Malformed(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::Io(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::v1::{
        BehaviorEvent, BehaviorGroup, Engagement, Features, HeldOutList, PreferencePair, SparseFeature,
        sample,
    };

    fn samples() -> Vec<Sample> {
        let view = BehaviorEvent {
            impression_id: "i".into(),
            event_time_ms: 1_700_000_000_000,
            engagement: Some(Engagement {
                other: [("shared".to_owned(), 0.1)].into(),
                ..Engagement::default()
            }),
            questionnaire_exposed: Some(false),
            features: Some(Features {
                dense: vec![0.1, -3.5e-8],
                sparse: vec![SparseFeature { field: 1, ids: vec![u64::MAX] }],
                schema_version: 1,
            }),
            ..BehaviorEvent::default()
        };
        let list = HeldOutList { views: vec![BehaviorEvent::default(), view.clone()], relevant: 1 };
        let group = BehaviorGroup { request_id: "r".into(), views: vec![view], ..BehaviorGroup::default() };
        let pair = PreferencePair { event_time_ms: 7, ..PreferencePair::default() };
        vec![
            Sample { sample: Some(sample::Sample::BehaviorGroup(group)) },
            Sample { sample: Some(sample::Sample::PreferencePair(pair)) },
            Sample { sample: Some(sample::Sample::HeldOutList(list)) },
        ]
    }

    #[test]
    fn both_forms_give_back_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["samples.pb", "samples.jsonl"] {
            let path = folder.path().join(name);
            let mut writer = SampleWriter::create(&path).unwrap();
            for sample in samples() {
                writer.write(&sample).unwrap();
            }
            writer.finish().unwrap();
            let mut reader = SampleReader::open(&path).unwrap();
            let read: Vec<_> = reader.by_ref().collect::<Result<_, _>>().unwrap();
            assert_eq!(read, samples(), "{name}");
            assert_eq!(reader.bytes_read(), path.metadata().unwrap().len(), "{name}");
        }
    }

    #[test]
    fn a_cut_file_is_an_error_that_names_the_sample() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("samples.pb");
        let whole: Vec<u8> =
            samples().iter().flat_map(|sample| sample.encode_length_delimited_to_vec()).collect();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let read: Vec<_> = SampleReader::open(&path).unwrap().collect();
        assert_eq!(read.len(), 3);
        assert!(read[0].is_ok() && read[1].is_ok());
        let error = read[2].as_ref().unwrap_err().to_string();
        assert!(error.contains("sample 3") && error.contains("ends within it"), "{error}");
    }

    #[test]
    fn another_extension_is_refused() {
        assert!(matches!(SampleReader::open("samples.csv"), Err(SampleError::Extension { .. })));
    }
}
