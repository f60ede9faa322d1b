//! What topics must exist and how they must be set: `easq topics create` and `easq topics check`.
//!
//! Inputs belong to the user and are created only when that is asked for; the other topics get as
//! many partitions as the inputs have, and the settings of the wire contract.

mod admin;
mod plan;

use std::collections::BTreeMap;
use std::fmt;

pub use admin::Admin;
use admin::{Cluster, Layout};
use plan::Wanted;

use crate::settings::Settings;

/// One thing about a topic that would lose records or stop a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its name in this cluster.
    pub topic: String,
    /// What is there, what is needed, and what happens else.
    pub problem: String,
    /// What a person does about it, as a command where one exists.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.topic, self.problem, self.remedy)
    }
}

/// Why topics could not be created or checked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each says what it is")]
pub enum TopicsError {
    #[error("no client for administration: {reason}")]
    Client { reason: String },
    #[error("{what} failed: {reason}")]
    Refused { what: String, reason: String },
    #[error(
        "'{behavior}' and '{responses}' do not exist, so that the number of partitions is not known: create \
         them, or run `easq topics create --inputs --partitions N`"
    )]
    NoInputs { behavior: String, responses: String },
    #[error(
        "'{behavior}' has {behavior_partitions} partitions and '{responses}' has {responses_partitions}: views \
         and responses of one user would not meet; create one of them anew"
    )]
    UnequalInputs { behavior: String, behavior_partitions: i32, responses: String, responses_partitions: i32 },
}

/// What `create` may do besides creating the topics that easq writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CreateOptions {
    /// Create the input topics too, where they are missing.
    pub inputs: bool,
    /// Number of partitions where no input topic exists yet; an existing one decides otherwise.
    pub partitions: Option<i32>,
    /// Replicas of new topics; `None`: three, or as many as there are brokers.
    pub replicas: Option<usize>,
}

/// What became of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Its name in this cluster.
    pub topic: String,
    /// As many as it has now, also where it existed before.
    pub partitions: i32,
    /// False when it existed before; then it is left as it is, see [`check`].
    pub created: bool,
}

impl fmt::Display for Created {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.created { "created" } else { "exists" };
        write!(f, "{}: {word}, {} partitions", self.topic, self.partitions)
    }
}

/// Creates the topics that are missing; doing it again changes nothing.
///
/// # Errors
/// [`TopicsError`]; topics created before the error stay.
pub fn create(settings: &Settings, options: &CreateOptions) -> Result<Vec<Created>, TopicsError> {
    let admin = Admin::new(&settings.kafka)?;
    let cluster = admin.cluster()?;
    let inputs = InputLayout::of(settings, &cluster);
    let partitions = inputs.partitions(settings, options)?;
    let mut wanted = if options.inputs { plan::inputs(settings, partitions) } else { Vec::new() };
    wanted.extend(plan::outputs(settings, partitions));
    create_missing(&admin, &cluster, &wanted, options.replicas)
}

/// Creates the two topics of the model that the settings name, where they are missing.
///
/// # Errors
/// As [`create`].
pub fn create_of_model(settings: &Settings) -> Result<Vec<Created>, TopicsError> {
    let admin = Admin::new(&settings.kafka)?;
    create_missing(&admin, &admin.cluster()?, &plan::of_model(settings), None)
}

/// Creates a topic that holds what `topics.preference_pairs` does, where it is missing.
///
/// # Errors
/// As [`create`].
pub fn create_like_pairs(settings: &Settings, name: &str, partitions: i32) -> Result<Created, TopicsError> {
    let admin = Admin::new(&settings.kafka)?;
    let wanted = Wanted { name: name.to_owned(), ..plan::preference_pairs(settings, partitions) };
    let mut created = create_missing(&admin, &admin.cluster()?, &[wanted], None)?;
    Ok(created.pop().expect("one topic was wanted"))
}

fn create_missing(
    admin: &Admin,
    cluster: &Cluster,
    wanted: &[Wanted],
    replicas: Option<usize>,
) -> Result<Vec<Created>, TopicsError> {
    let replicas = replicas.unwrap_or_else(|| plan::replicas(cluster.brokers));
    let missing: Vec<&Wanted> =
        wanted.iter().filter(|wanted| !cluster.topics.contains_key(&wanted.name)).collect();
    admin.create(&missing, replicas)?;
    let outcome = |wanted: &Wanted| {
        let before = cluster.topics.get(&wanted.name);
        let partitions = before.map_or(wanted.partitions, |layout| layout.partitions);
        Created { topic: wanted.name.clone(), partitions, created: before.is_none() }
    };
    Ok(wanted.iter().map(outcome).collect())
}

/// Everything that is wrong with the topics; empty when all is well.
///
/// # Errors
/// [`TopicsError::Client`] and [`TopicsError::Refused`], when the cluster cannot be asked.
pub fn check(settings: &Settings) -> Result<Vec<Finding>, TopicsError> {
    let admin = Admin::new(&settings.kafka)?;
    let cluster = admin.cluster()?;
    let inputs = InputLayout::of(settings, &cluster);
    // Where the two inputs differ, the views decide: there are more of them to move.
    let partitions = inputs.behavior.or(inputs.responses).map_or(1, |layout| layout.partitions);
    let mut wanted = plan::inputs(settings, partitions);
    wanted.extend(plan::outputs(settings, partitions));
    let existing: BTreeMap<String, Layout> = wanted
        .iter()
        .filter_map(|wanted| Some((wanted.name.clone(), *cluster.topics.get(&wanted.name)?)))
        .collect();
    let described = if existing.is_empty() { BTreeMap::new() } else { admin.describe(&existing)? };
    let judge = |wanted: &Wanted| plan::judge(wanted, described.get(&wanted.name), cluster.brokers);
    Ok(wanted.iter().flat_map(judge).collect())
}

/// The two inputs as far as they exist.
#[derive(Debug, Clone, Copy)]
struct InputLayout {
    behavior: Option<Layout>,
    responses: Option<Layout>,
}

impl InputLayout {
    fn of(settings: &Settings, cluster: &Cluster) -> Self {
        let layout = |name: &str| cluster.topics.get(name).copied();
        Self { behavior: layout(&settings.topics.behavior), responses: layout(&settings.topics.responses) }
    }

    /// The number of partitions that every topic of the joiner gets.
    fn partitions(self, settings: &Settings, options: &CreateOptions) -> Result<i32, TopicsError> {
        let (behavior, responses) = (settings.topics.behavior.clone(), settings.topics.responses.clone());
        match (self.behavior, self.responses) {
            (Some(views), Some(answers)) if views.partitions != answers.partitions => {
                Err(TopicsError::UnequalInputs {
                    behavior,
                    behavior_partitions: views.partitions,
                    responses,
                    responses_partitions: answers.partitions,
                })
            }
            (Some(layout), _) | (None, Some(layout)) => Ok(layout.partitions),
            (None, None) => options.partitions.ok_or(TopicsError::NoInputs { behavior, responses }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partitions(
        behavior: Option<i32>,
        responses: Option<i32>,
        asked: Option<i32>,
    ) -> Result<i32, TopicsError> {
        let layout = |partitions| Layout { partitions, replicas: 1 };
        let inputs = InputLayout { behavior: behavior.map(layout), responses: responses.map(layout) };
        let options = CreateOptions { partitions: asked, ..CreateOptions::default() };
        inputs.partitions(&Settings::default(), &options)
    }

    #[test]
    fn an_input_that_exists_decides_the_number_of_partitions() {
        assert_eq!(partitions(Some(6), Some(6), Some(4)), Ok(6));
        assert_eq!(partitions(None, Some(3), Some(4)), Ok(3));
        assert_eq!(partitions(None, None, Some(4)), Ok(4));
    }

    #[test]
    fn inputs_that_are_unequal_or_missing_are_errors_with_a_remedy() {
        let unequal = partitions(Some(6), Some(4), None).expect_err("unequal inputs");
        assert!(unequal.to_string().contains("has 6 partitions") && unequal.to_string().contains("has 4"));
        let missing = partitions(None, None, None).expect_err("no inputs");
        assert!(missing.to_string().contains("--inputs --partitions N"), "{missing}");
    }
}
