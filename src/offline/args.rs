//! `easq train`: its arguments.

use std::path::PathBuf;

use crate::model::Dtype;

/// Learn a model from a sample file, without Kafka.
///
/// The samples are learned strictly in order. A batch closes when it has train.batch_groups groups,
/// or when the label reservoir is full of pairs that were never drawn; at the end of the file what is
/// open is learned too. On the CPU with one thread the same file and settings give the same bytes, and
/// so does a file that is cut where a batch is complete and learned in two runs, the second with
/// --init.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Behavior groups and preference pairs (.pb or .jsonl), as `easq simulate --samples` writes them.
    #[arg(long, value_name = "FILE")]
    pub samples: PathBuf,
    /// What to begin with. A folder that this command or `easq model export --checkpoint` wrote (or the
    /// training.safetensors in it): go on exactly from there. A safetensors file with the parameters
    /// alone, such as the model.safetensors in it, or a folder of `easq follow`: begin with these
    /// parameters, optimizers new, the twin equal to them, the normalizer frozen [default: begin anew
    /// from model.seed].
    #[arg(long, value_name = "DIR|FILE")]
    pub init: Option<PathBuf>,
    /// Folder for the model; must not be there, or be empty. It appears whole or not at all.
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// Precision of the parameters [default: that of --init, else float32].
    #[arg(long, value_enum, value_name = "TYPE")]
    pub dtype: Option<Precision>,
}

/// A floating-point type, as a person spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    Float32,
    Float64,
}

impl Precision {
    pub fn dtype(self) -> Dtype {
        match self {
            Self::Float32 => Dtype::F32,
            Self::Float64 => Dtype::F64,
        }
    }
}
