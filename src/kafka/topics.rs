//! What topics must exist, and how they must be set.

/// One thing about a topic that would lose records or stop a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub topic: String,
    pub problem: String,
    /// What a person does about it, as a command where one exists.
    pub remedy: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {}", self.topic, self.problem, self.remedy)
    }
}
