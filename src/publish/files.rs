//! A version as files: what `easq follow` and `easq train` write, `easq score` and `easq evaluate`
//! read.
//!
//! `model.safetensors` holds the tensors under the names of the module tree;
//! `adapter_model.safetensors` and `adapter_config.json` hold LoRA as PEFT writes an adapter on the
//! module `projection`, so that a PyTorch program loads both without this project. Where training
//! may go on from the folder, `training.safetensors` holds its state.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as FileDtype, Metadata, TensorInfo};
use serde_json::json;

use crate::contract::v1;
use crate::model::{Dtype, HostTensor};
use crate::settings::Settings;
use crate::supervise::failpoint;

use super::paged::PagedTensor;
use super::{TRAINING_PREFIX, manifest};

/// All serving tensors but LoRA.
pub const MODEL: &str = "model.safetensors";
/// LoRA, under PEFT's names.
pub const ADAPTER: &str = "adapter_model.safetensors";
/// PEFT's description of it: rank, alpha, the module it belongs to.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// The training state, under its own names; only where training may go on from the folder.
pub const TRAINING: &str = "training.safetensors";
/// The manifest as the registry has it, in proto3's JSON mapping.
pub const MANIFEST: &str = "manifest.json";

const PEFT_PREFIX: &str = "base_model.model.";
const LORA_PREFIX: &str = "projection.lora_";
/// Of the data in a safetensors file, and so of its header's length.
const ALIGNMENT: usize = 8;

/// Writes a version's files into the empty folder `dir` and waits until they are on disk.
pub fn write(dir: &Path, manifest: &v1::Manifest, tensors: &[HostTensor]) -> io::Result<()> {
    let paged: Vec<PagedTensor> = tensors.iter().map(PagedTensor::from).collect();
    write_paged(dir, manifest, &paged)?;
    sync(dir)
}

/// As [`write()`], but that nothing is known to be on disk before [`sync`].
pub(super) fn write_paged(dir: &Path, manifest: &v1::Manifest, tensors: &[PagedTensor]) -> io::Result<()> {
    let (training, serving): (Vec<_>, Vec<_>) =
        tensors.iter().partition(|tensor| tensor.name.starts_with(TRAINING_PREFIX));
    let (lora, model): (Vec<_>, Vec<_>) =
        serving.into_iter().partition(|tensor| tensor.name.starts_with(LORA_PREFIX));
    write_tensors(&dir.join(MODEL), model, "")?;
    failpoint("version-half-written");
    write_tensors(&dir.join(ADAPTER), lora, PEFT_PREFIX)?;
    if !training.is_empty() {
        write_tensors(&dir.join(TRAINING), training, "")?;
    }
    write_file(&dir.join(ADAPTER_CONFIG), adapter_config(manifest).as_bytes())?;
    write_file(&dir.join(MANIFEST), manifest::to_json(manifest).as_bytes())
}

/// Waits until the files in `dir`, and their names, are on disk.
pub(super) fn sync(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_dir(dir)
}

/// Writes a version's files, and beside them the files `more` (by name and content), as the new folder
/// `dir`, which is not there or empty: all of them or none. What a process that is killed on the way
/// leaves lies beside it and begins with `.easq-`.
pub fn write_folder(
    dir: &Path,
    manifest: &v1::Manifest,
    tensors: &[HostTensor],
    more: &[(&str, &[u8])],
) -> io::Result<()> {
    let parent = parent(dir);
    fs::create_dir_all(parent)?;
    let temporary = tempfile::Builder::new()
        .prefix(".easq-")
        // What the umask leaves of it, as for any other folder.
        .permissions(fs::Permissions::from_mode(0o777))
        .tempdir_in(parent)?;
    for (name, content) in more {
        write_file(&temporary.path().join(name), content)?;
    }
    write(temporary.path(), manifest, tensors)?;
    fs::rename(temporary.path(), dir)?;
    // Its name is gone: there is nothing to remove any more.
    let _ = temporary.keep();
    sync_dir(parent)
}

/// Whether nothing is in the way of a new folder: none is there, or an empty one.
pub fn is_free(dir: &Path) -> io::Result<bool> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Reads the manifest of a version's folder.
pub fn read_manifest(dir: &Path) -> io::Result<v1::Manifest> {
    let json = fs::read_to_string(dir.join(MANIFEST))?;
    serde_json::from_str(&json).map_err(damaged)
}

fn damaged(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Reads the tensors of a model file, and of the adapter beside it if there is one, under the names
/// that a manifest gives them.
pub fn read_tensors(model: &Path) -> io::Result<Vec<HostTensor>> {
    let mut tensors = read_safetensors(model)?;
    let adapter = model.with_file_name(ADAPTER);
    if adapter != model && adapter.exists() {
        tensors.extend(read_safetensors(&adapter)?);
    }
    own_names(&mut tensors);
    Ok(tensors)
}

/// Reads the tensors of a version's folder, ordered by name. All files have to be there: a folder that
/// is removed meanwhile loses them one by one.
pub fn read_version_tensors(dir: &Path) -> io::Result<Vec<HostTensor>> {
    let mut tensors = read_safetensors(&dir.join(MODEL))?;
    tensors.extend(read_safetensors(&dir.join(ADAPTER))?);
    own_names(&mut tensors);
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tensors)
}

/// PEFT's names back to those of the manifest.
fn own_names(tensors: &mut [HostTensor]) {
    for tensor in tensors {
        if let Some(name) = tensor.name.strip_prefix(PEFT_PREFIX) {
            tensor.name = name.to_owned();
        }
    }
}

/// Reads all tensors of a version's folder, the training state included where it is there.
pub fn read_folder(dir: &Path) -> io::Result<Vec<HostTensor>> {
    let mut tensors = read_tensors(&dir.join(MODEL))?;
    let training = dir.join(TRAINING);
    if training.exists() {
        tensors.extend(read_safetensors(&training)?);
    }
    Ok(tensors)
}

/// Reads the frozen backbone that the settings name (`model.backbone`); None where they name none.
pub fn read_backbone(settings: &Settings) -> io::Result<Option<Vec<HostTensor>>> {
    let path = &settings.model.backbone;
    if path.is_empty() { Ok(None) } else { read_safetensors(Path::new(path)).map(Some) }
}

fn write_tensors(path: &Path, mut tensors: Vec<&PagedTensor>, prefix: &str) -> io::Result<()> {
    // As the library orders them, whose own writer wants each tensor in one piece: wide elements
    // first, so that all are aligned.
    tensors.sort_by(|a, b| file_dtype(b.dtype).cmp(&file_dtype(a.dtype)).then_with(|| a.name.cmp(&b.name)));
    let mut end = 0;
    let infos = tensors.iter().map(|tensor| {
        let start = end;
        end += tensor.bytes();
        let (dtype, shape) = (file_dtype(tensor.dtype), tensor.shape.clone());
        (format!("{prefix}{}", tensor.name), TensorInfo { dtype, shape, data_offsets: (start, end) })
    });
    // Loaders of the transformers family refuse a file that does not say whose layout it has.
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), infos.collect()).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&metadata)?;
    header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');
    let mut file = BufWriter::new(File::create_new(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    for page in tensors.iter().flat_map(|tensor| &tensor.pages) {
        file.write_all(page)?;
    }
    file.flush()
}

/// Reads the tensors of one file, under the names that it has them.
pub fn read_safetensors(path: &Path) -> io::Result<Vec<HostTensor>> {
    let bytes = fs::read(path)?;
    let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
    let tensors = file.iter().map(|(name, view)| {
        let dtype = model_dtype(view.dtype()).ok_or_else(|| {
            io::Error::other(format!("tensor '{name}' has dtype {:?}, models have F32 or F64", view.dtype()))
        })?;
        let data = view.data().to_vec().into();
        Ok(HostTensor { name: name.to_owned(), dtype, shape: view.shape().to_vec(), data })
    });
    tensors.collect()
}

fn file_dtype(dtype: Dtype) -> FileDtype {
    match dtype {
        Dtype::F32 => FileDtype::F32,
        Dtype::F64 => FileDtype::F64,
        Dtype::I64 => FileDtype::I64,
        Dtype::U8 => FileDtype::U8,
    }
}

fn model_dtype(dtype: FileDtype) -> Option<Dtype> {
    [Dtype::F32, Dtype::F64, Dtype::I64, Dtype::U8].into_iter().find(|own| file_dtype(*own) == dtype)
}

/// PEFT's description of the adapter: h gains `lora_alpha / r · x Aᵀ Bᵀ` on the module `projection`.
fn adapter_config(manifest: &v1::Manifest) -> String {
    let shape = manifest.shape.unwrap_or_default();
    let config = json!({
        "peft_type": "LORA",
        "task_type": null,
        "base_model_name_or_path": null,
        "r": shape.lora_rank,
        "lora_alpha": shape.lora_alpha,
        "lora_dropout": 0.0,
        "target_modules": ["projection"],
        "modules_to_save": null,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "inference_mode": true,
    });
    format!("{config:#}\n")
}

fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    File::create_new(path)?.write_all(bytes)
}

/// Makes the names in a folder durable, as [`File::sync_all`] does contents.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use safetensors::tensor::TensorView;

    use super::*;

    fn tensors() -> Vec<HostTensor> {
        vec![
            HostTensor::from_f64("projection.lora_A.weight", vec![1, 2], &[1.0, 2.0]),
            HostTensor::from_f64("projection.weight", vec![2, 1], &[3.0, 4.0]),
        ]
    }

    #[test]
    fn tensors_come_back_from_the_files_under_their_own_names() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        write(dir.path(), &v1::Manifest { version: 9, ..v1::Manifest::default() }, &tensors())
            .expect("written");
        let mut read = read_tensors(&dir.path().join(MODEL)).expect("read");
        read.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(read, tensors());
        assert_eq!(read_manifest(dir.path()).expect("read").version, 9);
    }

    /// The library's own writer wants each tensor in one piece, and so more memory.
    #[test]
    fn tensors_in_pages_give_the_bytes_that_the_library_gives_of_whole_ones() {
        let pages = [&[1_u8; 16][..], &[2; 5], &[], &[3; 19]].map(Bytes::copy_from_slice);
        let wide = PagedTensor {
            name: "embeddings.video.weight".to_owned(),
            dtype: Dtype::F64,
            shape: vec![5, 1],
            pages: pages.into(),
        };
        let tensors = [
            HostTensor::from_u8("a", vec![7; 3]),
            HostTensor::from_f64("empty", vec![0], &[]),
            wide.clone().join(),
            HostTensor::from_f32("b", vec![2], &[0.5, -1.0]),
        ];
        let views = tensors.each_ref().map(|tensor| {
            let view = TensorView::new(file_dtype(tensor.dtype), tensor.shape.clone(), &tensor.data);
            (format!("{PEFT_PREFIX}{}", tensor.name), view.expect("a tensor"))
        });
        let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let expected = safetensors::serialize(views, Some(format)).expect("serialized");
        let mut paged = tensors.each_ref().map(PagedTensor::from);
        paged[2] = wide;
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join(MODEL);
        write_tensors(&file, paged.iter().collect(), PEFT_PREFIX).expect("written");
        assert_eq!(fs::read(&file).expect("read"), expected);
    }

    #[test]
    fn a_folder_is_written_whole_or_not_at_all_with_the_training_state_in_a_file_of_its_own() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = dir.path().join("models/first");
        let state = HostTensor::from_i64("training.counts", &[3, 4]);
        let all = [tensors(), vec![state]].concat();
        write_folder(&folder, &v1::Manifest::default(), &all, &[]).expect("written");
        let mut read = read_folder(&folder).expect("read");
        read.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(read, all);
        let serving = read_tensors(&folder.join(MODEL)).expect("read");
        assert!(serving.iter().all(|tensor| tensor.name != "training.counts"));

        let error = write_folder(&folder, &v1::Manifest::default(), &tensors(), &[]).expect_err("not empty");
        assert_eq!(error.kind(), io::ErrorKind::DirectoryNotEmpty);
        let beside: Vec<_> = fs::read_dir(dir.path().join("models")).expect("the parent").collect();
        assert_eq!((beside.len(), read_folder(&folder).expect("as it was").len()), (1, 3));
    }

    #[test]
    fn the_adapter_is_named_and_described_as_peft_does() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let shape = v1::ModelShape { lora_rank: 4, lora_alpha: 2.0, ..v1::ModelShape::default() };
        let manifest = v1::Manifest { shape: Some(shape), ..v1::Manifest::default() };
        write(dir.path(), &manifest, &tensors()).expect("written");
        let adapter = fs::read(dir.path().join(ADAPTER)).expect("the adapter");
        let adapter = SafeTensors::deserialize(&adapter).expect("safetensors");
        assert_eq!(adapter.names(), ["base_model.model.projection.lora_A.weight"]);
        let config = fs::read(dir.path().join(ADAPTER_CONFIG)).expect("its configuration");
        let config: serde_json::Value = serde_json::from_slice(&config).expect("JSON");
        assert_eq!((config["r"].as_u64(), config["peft_type"].as_str()), (Some(4), Some("LORA")));
    }
}
