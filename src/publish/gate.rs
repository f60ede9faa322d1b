//! Whether a candidate becomes production. Pure.

use crate::contract::v1;
use crate::model::HostTensor;

/// Decides on a candidate that has learned `inputs`, beside the version that is production.
///
/// It is promoted when all its values are finite, and when no input offset of production lies beyond
/// its own: after a resume the trainer goes on behind production, and a promotion there would take
/// back what rankers already have.
pub fn decide(
    tensors: &[HostTensor],
    inputs: &[v1::LearnedRange],
    production: Option<&v1::Manifest>,
) -> v1::GateDecision {
    let mut reasons = Vec::new();
    let broken = tensors.iter().find(|tensor| !tensor.is_finite());
    if let Some(tensor) = broken {
        reasons.push(format!("tensor '{}' has a value that is not finite", tensor.name));
    }
    if let Some(behind) = production.and_then(|production| first_behind(inputs, production)) {
        reasons.push(behind);
    }
    v1::GateDecision { promoted: reasons.is_empty(), reasons, finite: broken.is_none() }
}

/// The first input partition of production that the candidate has not learned as far, in words.
fn first_behind(inputs: &[v1::LearnedRange], production: &v1::Manifest) -> Option<String> {
    production.inputs.iter().find_map(|theirs| {
        let own = inputs.iter().find(|own| own.topic == theirs.topic && own.partition == theirs.partition);
        let own = own.map_or(0, |own| own.next_offset);
        (own < theirs.next_offset).then(|| {
            format!(
                "behind production version {}: {}-{} at offset {own}, production at {}",
                production.version, theirs.topic, theirs.partition, theirs.next_offset
            )
        })
    })
}
