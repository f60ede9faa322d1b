//! Manifests: encoded, decoded, and checked before anything they say is trusted. Pure.

use bytes::Bytes;
use prost::Message;
use thiserror::Error;

use crate::contract::v1;
use crate::model::{Architecture, Dtype};
use crate::settings::Settings;

use super::pages::sha256;

/// The manifest format that this program writes; it reads this one and none above it.
pub const FORMAT: u32 = 1;

/// What the digest of a manifest adds to it: tag, length, and SHA-256.
pub(super) const DIGEST_BYTES: usize = 35;

/// Pages are read into memory one by one: a manifest may not ask for more than a record can hold.
const MAX_PAGE_BYTES: u64 = 16 << 20;

/// Why a manifest cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the message of each says what it is")]
pub enum ManifestError {
    #[error("the manifest does not decode: {0}")]
    Undecodable(String),
    #[error("the manifest is damaged: its SHA-256 is not that of its bytes")]
    Damaged,
    #[error("the manifest has format {found}, this program reads up to {FORMAT}: upgrade easq")]
    NewerFormat { found: u32 },
    #[error("the manifest has no format number")]
    NoFormat,
    #[error("the manifest under versions/{key} says that it is version {found}")]
    WrongVersion { key: u64, found: u64 },
    #[error("the manifest is of model '{found}', expected '{expected}'")]
    WrongModel { found: String, expected: String },
    #[error("the manifest has no {0}")]
    Absent(&'static str),
    #[error("tensor '{tensor}': {problem}")]
    Tensor { tensor: String, problem: String },
}

/// The record value of a manifest: its bytes, and their digest as its last field.
pub fn encode(manifest: &v1::Manifest) -> Vec<u8> {
    let mut value = v1::Manifest { sha256: Bytes::new(), ..manifest.clone() }.encode_to_vec();
    let sha256 = Bytes::copy_from_slice(&sha256(&value));
    value.extend(v1::Manifest { sha256, ..v1::Manifest::default() }.encode_to_vec());
    value
}

/// Decodes and validates the record value under the key `versions/<key>`. One that carries no digest
/// of itself is taken as it is: the first ones had none.
pub fn decode(value: &[u8], key: u64, model: &str) -> Result<v1::Manifest, ManifestError> {
    let mut manifest =
        v1::Manifest::decode(value).map_err(|error| ManifestError::Undecodable(error.to_string()))?;
    if !manifest.sha256.is_empty() {
        let found = std::mem::take(&mut manifest.sha256);
        let digest = v1::Manifest { sha256: found, ..v1::Manifest::default() };
        let body = value.strip_suffix(digest.encode_to_vec().as_slice());
        if body.is_none_or(|body| sha256(body)[..] != digest.sha256[..]) {
            return Err(ManifestError::Damaged);
        }
    }
    validate(&manifest, model)?;
    if manifest.version != key {
        return Err(ManifestError::WrongVersion { key, found: manifest.version });
    }
    Ok(manifest)
}

/// Checks that the manifest is of a known format, of `model`, and consistent in itself: the pages of
/// every tensor add up to its shape.
pub fn validate(manifest: &v1::Manifest, model: &str) -> Result<(), ManifestError> {
    match manifest.format {
        0 => return Err(ManifestError::NoFormat),
        FORMAT => {}
        found => return Err(ManifestError::NewerFormat { found }),
    }
    if manifest.model != model {
        return Err(ManifestError::WrongModel { found: manifest.model.clone(), expected: model.to_owned() });
    }
    if manifest.kind == v1::VersionKind::Unspecified as i32
        || v1::VersionKind::try_from(manifest.kind).is_err()
    {
        return Err(ManifestError::Absent("kind"));
    }
    manifest.features.as_ref().ok_or(ManifestError::Absent("feature schema"))?;
    manifest.shape.as_ref().ok_or(ManifestError::Absent("model shape"))?;
    let mut previous: Option<&str> = None;
    for tensor in &manifest.tensors {
        let fault = |problem: String| ManifestError::Tensor { tensor: tensor.name.clone(), problem };
        if previous.is_some_and(|previous| previous >= tensor.name.as_str()) {
            return Err(fault("is not in order of names, or there twice".to_owned()));
        }
        validate_tensor(tensor).map_err(fault)?;
        previous = Some(&tensor.name);
    }
    Ok(())
}

fn validate_tensor(tensor: &v1::Tensor) -> Result<(), String> {
    let dtype =
        Dtype::parse(&tensor.dtype).ok_or_else(|| format!("has the unknown dtype '{}'", tensor.dtype))?;
    let elements = tensor.shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size));
    let expected = elements.and_then(|elements| elements.checked_mul(dtype.size() as u64));
    let paged = tensor.pages.iter().try_fold(0u64, |sum, page| sum.checked_add(page.length));
    if expected.is_none() || expected != paged {
        return Err(format!("its pages do not add up to shape {:?} of {}", tensor.shape, tensor.dtype));
    }
    if tensor
        .pages
        .iter()
        .any(|page| page.length > MAX_PAGE_BYTES || page.offset < 0 || page.sha256.len() != 32)
    {
        return Err("has a page of impossible length, offset or digest".to_owned());
    }
    Ok(())
}

/// The manifest's JSON form, proto3's mapping, as in `manifest.json`.
pub fn to_json(manifest: &v1::Manifest) -> String {
    let mut json = serde_json::to_string_pretty(manifest).expect("a manifest has a JSON form");
    json.push('\n');
    json
}

/// The sections of the settings that describe another model than the manifest's, in words; None when
/// it is the same.
pub fn unlike_sections(manifest: &v1::Manifest, settings: &Settings) -> Option<String> {
    let wanted = Architecture::from_settings(settings);
    let mut sections = Vec::new();
    if manifest.features.as_ref() != Some(&wanted.feature_schema()) {
        sections.push("[features]");
    }
    if manifest.shape.as_ref() != Some(&wanted.model_shape()) {
        sections.push("[model]");
    }
    (!sections.is_empty()).then(|| sections.join(" and "))
}

/// The version's `next_offset` of an input partition, if it has read that partition.
pub fn next_offset(manifest: &v1::Manifest, topic: &str, partition: i32) -> Option<i64> {
    let range = manifest.inputs.iter().find(|range| range.topic == topic && range.partition == partition);
    range.map(|range| range.next_offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> v1::Manifest {
        let page = |offset, length| v1::Page { offset, length, sha256: vec![0; 32].into() };
        v1::Manifest {
            format: FORMAT,
            model: "m".to_owned(),
            version: 3,
            kind: v1::VersionKind::Serving.into(),
            features: Some(v1::FeatureSchema::default()),
            shape: Some(v1::ModelShape::default()),
            tensors: vec![v1::Tensor {
                name: "w".to_owned(),
                dtype: "F32".to_owned(),
                shape: vec![2, 3],
                sha256: vec![0; 32].into(),
                pages: vec![page(1, 16), page(9, 8)],
            }],
            ..v1::Manifest::default()
        }
    }

    #[test]
    fn a_manifest_comes_back_as_it_was_written() {
        assert_eq!(decode(&encode(&valid()), 3, "m"), Ok(valid()));
        assert_eq!(serde_json::from_str::<v1::Manifest>(&to_json(&valid())).expect("JSON"), valid());
    }

    #[test]
    fn a_manifest_with_any_bit_flipped_is_refused() {
        let value = encode(&valid());
        let mut refused = 0;
        for bit in 0..value.len() * 8 {
            let mut flipped = value.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            match decode(&flipped, 3, "m") {
                Err(_) => refused += 1,
                // The tag of the digest is now that of a field nobody knows.
                Ok(manifest) => assert_eq!(manifest, valid(), "bit {bit} of {}", value.len() * 8),
            }
        }
        assert!(refused >= (value.len() - 2) * 8, "{refused} of {}", value.len() * 8);
    }

    #[test]
    fn a_manifest_without_a_digest_is_read_and_fields_of_newer_programs_are_covered_by_one() {
        assert_eq!(decode(&valid().encode_to_vec(), 3, "m"), Ok(valid()));
        let mut newer = valid().encode_to_vec();
        newer.extend([0x98, 0x06, 1]); // field 99, a varint
        let sha256 = Bytes::copy_from_slice(&sha256(&newer));
        let digest = v1::Manifest { sha256, ..v1::Manifest::default() }.encode_to_vec();
        newer.extend(&digest);
        assert_eq!(decode(&newer, 3, "m"), Ok(valid()));
        let mut misplaced = digest;
        misplaced.extend(valid().encode_to_vec());
        assert_eq!(decode(&misplaced, 3, "m"), Err(ManifestError::Damaged));
    }

    #[test]
    fn a_newer_format_is_refused_and_the_remedy_named() {
        let newer = v1::Manifest { format: FORMAT + 1, ..valid() };
        let error = validate(&newer, "m").expect_err("newer");
        assert_eq!(error, ManifestError::NewerFormat { found: FORMAT + 1 });
        assert!(error.to_string().contains("upgrade"));
    }

    #[test]
    fn a_manifest_of_another_key_or_model_is_refused() {
        assert!(matches!(decode(&encode(&valid()), 4, "m"), Err(ManifestError::WrongVersion { .. })));
        assert!(matches!(decode(&encode(&valid()), 3, "n"), Err(ManifestError::WrongModel { .. })));
    }

    #[test]
    fn tensors_that_contradict_themselves_are_refused() {
        let faults: [fn(&mut v1::Tensor); 6] = [
            |tensor| tensor.dtype = "F8".to_owned(),
            |tensor| tensor.shape = vec![7],
            |tensor| tensor.shape = vec![u64::MAX, u64::MAX],
            |tensor| tensor.pages[0].length = u64::MAX,
            |tensor| tensor.pages[0].offset = -1,
            |tensor| tensor.pages[1].sha256 = vec![0; 31].into(),
        ];
        for (index, fault) in faults.into_iter().enumerate() {
            let mut manifest = valid();
            fault(&mut manifest.tensors[0]);
            assert!(matches!(validate(&manifest, "m"), Err(ManifestError::Tensor { .. })), "fault {index}");
        }
        let mut twice = valid();
        twice.tensors.push(twice.tensors[0].clone());
        assert!(matches!(validate(&twice, "m"), Err(ManifestError::Tensor { .. })));
    }
}
