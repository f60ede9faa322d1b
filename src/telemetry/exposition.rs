//! The Prometheus text format, read again: `/status` says what `/metrics` says.

use std::collections::BTreeMap;

/// The samples of one rendering.
pub(super) struct Samples<'a>(Vec<Sample<'a>>);

/// One line: what was observed, with which labels.
struct Sample<'a> {
    name: &'a str,
    labels: BTreeMap<&'a str, String>,
    value: f64,
}

impl<'a> Samples<'a> {
    /// Reads a text that this program has rendered; lines that are no samples are passed over.
    pub fn parse(text: &'a str) -> Self {
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect())
    }

    /// The value of a metric without labels.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.of(name).find(|sample| sample.labels.is_empty()).map(|sample| sample.value)
    }

    /// The values of a metric by one of its labels; of several with the same one the last.
    pub fn by_label(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        self.of(name).filter_map(|sample| Some((sample.labels.get(label)?.clone(), sample.value))).collect()
    }

    /// The values of a metric by two of its labels.
    pub fn by_labels(&self, name: &str, outer: &str, inner: &str) -> BTreeMap<String, BTreeMap<String, f64>> {
        let mut values: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
        for sample in self.of(name) {
            if let (Some(outer), Some(inner)) = (sample.labels.get(outer), sample.labels.get(inner)) {
                values.entry(outer.clone()).or_default().insert(inner.clone(), sample.value);
            }
        }
        values
    }

    fn of(&self, name: &str) -> impl Iterator<Item = &Sample<'a>> {
        self.0.iter().filter(move |sample| sample.name == name)
    }
}

fn sample(line: &str) -> Option<Sample<'_>> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, rest)) => (name, labels(rest.strip_suffix('}')?)?),
        None => (series, BTreeMap::new()),
    };
    Some(Sample { name, labels, value: value.parse().ok()? })
}

/// `name="value",…`, where a value has its backslashes, quotes and line ends escaped.
fn labels(mut text: &str) -> Option<BTreeMap<&str, String>> {
    let mut labels = BTreeMap::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = rest.char_indices();
        let end = loop {
            match characters.next()? {
                (end, '"') => break end,
                (_, '\\') => match characters.next()?.1 {
                    'n' => value.push('\n'),
                    escaped => value.push(escaped),
                },
                (_, character) => value.push(character),
            }
        };
        labels.insert(name, value);
        text = rest[end + 1..].trim_start_matches(',');
    }
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP a What it is.\n# TYPE a gauge\na 1.5\n\nb{x=\"one\",y=\"p\"} 2\nb{x=\"two\",y=\"p\"} 3\n\
                        c{x=\"a\\\"} 1,\\\\ \\n{\"} 4\nbroken{x=\"} 5\n";

    #[test]
    fn samples_are_found_by_name_and_labels() {
        let samples = Samples::parse(TEXT);
        assert_eq!((samples.value("a"), samples.value("b"), samples.value("d")), (Some(1.5), None, None));
        assert_eq!(samples.by_label("b", "x"), [("one".to_owned(), 2.0), ("two".to_owned(), 3.0)].into());
        let outer = samples.by_labels("b", "y", "x");
        assert_eq!(outer["p"], samples.by_label("b", "x"));
    }

    #[test]
    fn escaped_labels_come_back_as_they_were() {
        assert_eq!(Samples::parse(TEXT).by_label("c", "x"), [("a\"} 1,\\ \n{".to_owned(), 4.0)].into());
    }
}
