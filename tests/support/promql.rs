//! What an expression of a dashboard or a rule asks of the program's metrics.

use std::collections::BTreeSet;

use easq::telemetry::names::{Kind, TABLE};
use promql_parser::parser::{self, Expr, LabelModifier, VectorMatchCardinality, VectorSelector};

/// Labels that Prometheus' configuration gives to every series of a target.
const OF_TARGETS: [&str; 3] = ["job", "instance", "model_name"];
/// What Prometheus itself says of a target.
const OF_PROMETHEUS: &str = "up";

/// A metric or recorded series that an expression may name, with its labels.
#[derive(Debug, Clone)]
pub struct Known {
    pub name: String,
    pub labels: BTreeSet<String>,
}

/// Everything in the program's table, as Prometheus stores it.
pub fn known() -> Vec<Known> {
    let mut known = vec![Known { name: OF_PROMETHEUS.to_owned(), labels: labels(&[]) }];
    for metric in TABLE {
        let mut add = |suffix: &str, more: &[&str]| {
            let of_metric = labels(&[metric.labels, more].concat());
            known.push(Known { name: format!("{}{suffix}", metric.name), labels: of_metric });
        };
        if metric.kind == Kind::Histogram {
            add("_bucket", &["le"]);
            add("_sum", &[]);
            add("_count", &[]);
        } else {
            add("", &[]);
        }
    }
    known
}

fn labels(of_metric: &[&str]) -> BTreeSet<String> {
    // A label of the metric's own gives way to that of the target.
    let own = of_metric.iter().map(|&label| match OF_TARGETS.contains(&label) {
        true => format!("exported_{label}"),
        false => label.to_owned(),
    });
    own.chain(OF_TARGETS.map(str::to_owned)).collect()
}

/// The expression, parsed.
///
/// # Panics
/// It is none.
#[track_caller]
pub fn parse(expression: &str) -> Expr {
    parser::parse(expression).unwrap_or_else(|error| panic!("{error} in {expression}"))
}

/// The selectors of an expression, without time ranges and offsets.
pub fn selectors(expression: &Expr) -> Vec<VectorSelector> {
    let mut found = Vec::new();
    walk(expression, &mut |part| match part {
        Expr::VectorSelector(selector) => found.push(selector.clone()),
        Expr::MatrixSelector(matrix) => found.push(matrix.vs.clone()),
        _ => {}
    });
    found.iter_mut().for_each(|selector| (selector.offset, selector.at) = (None, None));
    found
}

/// What the expression names and there is not.
pub fn faults(expression: &Expr, known: &[Known]) -> Vec<String> {
    let mut faults = Vec::new();
    for selector in selectors(expression) {
        let Some(name) = &selector.name else {
            faults.push(format!("{selector} names no metric"));
            continue;
        };
        match known.iter().find(|known| known.name == *name) {
            None => faults.push(format!("there is no metric {name}")),
            Some(known) => {
                let matched = selector.matchers.matchers.iter().map(|matcher| &matcher.name);
                let strange = matched.filter(|label| !known.labels.contains(*label));
                faults.extend(strange.map(|label| format!("{name} has no label {label}")));
            }
        }
    }
    walk(expression, &mut |part| {
        let there = labels_of(part, known);
        let strange = grouping(part).into_iter().filter(|label| !there.contains(label));
        faults.extend(strange.map(|label| format!("nothing in {part} has a label {label}")));
    });
    faults
}

/// Labels that the series below `part` have.
fn labels_of(part: &Expr, known: &[Known]) -> BTreeSet<String> {
    let selectors = selectors(part);
    let names: Vec<_> = selectors.iter().filter_map(|selector| selector.name.as_ref()).collect();
    let named = known.iter().filter(|known| names.contains(&&known.name));
    named.flat_map(|known| known.labels.iter().cloned()).collect()
}

/// Labels that an aggregation or a matching of two sides names.
fn grouping(part: &Expr) -> Vec<String> {
    let of = |modifier: &LabelModifier| match modifier {
        LabelModifier::Include(labels) | LabelModifier::Exclude(labels) => labels.labels.clone(),
    };
    match part {
        Expr::Aggregate(aggregate) => aggregate.modifier.as_ref().map(of).unwrap_or_default(),
        Expr::Binary(binary) => {
            let Some(modifier) = &binary.modifier else { return Vec::new() };
            let mut labels = modifier.matching.as_ref().map(of).unwrap_or_default();
            if let VectorMatchCardinality::ManyToOne(more) | VectorMatchCardinality::OneToMany(more) =
                &modifier.card
            {
                labels.extend(more.labels.clone());
            }
            labels
        }
        _ => Vec::new(),
    }
}

fn walk(expression: &Expr, visit: &mut dyn FnMut(&Expr)) {
    visit(expression);
    match expression {
        Expr::Aggregate(aggregate) => {
            aggregate.param.iter().for_each(|param| walk(param, visit));
            walk(&aggregate.expr, visit);
        }
        Expr::Unary(unary) => walk(&unary.expr, visit),
        Expr::Binary(binary) => {
            walk(&binary.lhs, visit);
            walk(&binary.rhs, visit);
        }
        Expr::Paren(paren) => walk(&paren.expr, visit),
        Expr::Subquery(subquery) => walk(&subquery.expr, visit),
        Expr::Call(call) => call.args.args.iter().for_each(|argument| walk(argument, visit)),
        _ => {}
    }
}
