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

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(offset: i64) -> Vec<v1::LearnedRange> {
        vec![v1::LearnedRange {
            topic: "groups".to_owned(),
            partition: 1,
            next_offset: offset,
            ..v1::LearnedRange::default()
        }]
    }

    fn production_at(offset: i64) -> v1::Manifest {
        v1::Manifest { version: 7, inputs: learned(offset), ..v1::Manifest::default() }
    }

    #[test]
    fn a_finite_first_version_becomes_production() {
        let decision = decide(&[HostTensor::from_f64("w", vec![1], &[0.5])], &learned(3), None);
        assert_eq!(decision, v1::GateDecision { promoted: true, reasons: vec![], finite: true });
    }

    #[test]
    fn a_value_that_is_not_finite_is_never_production() {
        for value in [f64::NAN, f64::INFINITY] {
            let decision = decide(&[HostTensor::from_f64("w", vec![1], &[value])], &learned(3), None);
            assert!(!decision.promoted && !decision.finite);
            assert!(decision.reasons[0].contains("'w'"), "{:?}", decision.reasons);
        }
    }

    #[test]
    fn nothing_behind_production_is_promoted() {
        let production = production_at(5);
        let decision = decide(&[], &learned(4), Some(&production));
        assert!(!decision.promoted && decision.finite);
        assert!(decision.reasons[0].contains("version 7"), "{:?}", decision.reasons);
        assert!(decide(&[], &learned(5), Some(&production)).promoted);
        assert!(!decide(&[], &[], Some(&production)).promoted, "a partition never read is behind");
    }
}
