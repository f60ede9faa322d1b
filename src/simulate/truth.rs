//! What only the world knows, as JSON lines.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::faults::{Delivery, Fault, Input};
use super::run::SimulateError;

/// One line per view of the world, and one per record that is a fault.
pub struct TruthFile {
    path: PathBuf,
    writer: BufWriter<File>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Line<'a> {
    View {
        impression_id: &'a str,
        satisfied: bool,
        satisfaction: f64,
        triggered: bool,
        exposed: bool,
        answered: bool,
    },
    Fault {
        impression_id: &'a str,
        topic: &'static str,
        fault: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        defect: Option<&'static str>,
    },
}

impl TruthFile {
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path) -> Result<Self, SimulateError> {
        let file = File::create(path).map_err(|source| SimulateError::file(path, source))?;
        Ok(Self { path: path.to_owned(), writer: BufWriter::new(file) })
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn write(&mut self, delivery: &Delivery) -> Result<(), SimulateError> {
        let impression_id = &*delivery.impression_id;
        if let Some(truth) = delivery.truth {
            self.write_line(&Line::View {
                impression_id,
                satisfied: truth.satisfied,
                satisfaction: truth.satisfaction,
                triggered: truth.triggered,
                exposed: truth.exposed,
                answered: truth.answered,
            })?;
        }
        if let Some(fault) = delivery.fault {
            let topic = match delivery.input {
                Input::Behavior => "behavior",
                Input::Responses => "responses",
            };
            let defect = match fault {
                Fault::Malformed(defect) => Some(defect.as_str()),
                _ => None,
            };
            self.write_line(&Line::Fault { impression_id, topic, fault: fault.as_str(), defect })?;
        }
        Ok(())
    }

    fn write_line(&mut self, line: &Line) -> Result<(), SimulateError> {
        serde_json::to_writer(&mut self.writer, line)
            .map_err(std::io::Error::from)
            .and_then(|()| self.writer.write_all(b"\n"))
            .map_err(|source| SimulateError::file(&self.path, source))
    }

    /// # Errors
    /// When the last lines cannot be written.
    pub fn finish(mut self) -> Result<(), SimulateError> {
        self.writer.flush().map_err(|source| SimulateError::file(&self.path, source))
    }
}
