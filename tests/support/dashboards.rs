//! The dashboards under `config/grafana/dashboards`, as Grafana reads them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

pub const DASHBOARDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/grafana/dashboards");

/// One dashboard.
pub struct Dashboard {
    /// As it lies in the file.
    pub text: String,
    pub json: Value,
}

impl Dashboard {
    pub fn uid(&self) -> &str {
        self.json["uid"].as_str().expect("a dashboard with a uid")
    }

    /// What shows something, not its headings.
    pub fn panels(&self) -> Vec<Panel> {
        let panels = self.json["panels"].as_array().expect("a dashboard with panels");
        let shown = panels.iter().filter(|panel| panel["type"] != "row");
        let panel =
            |json: &Value| Panel { dashboard: self.uid().to_owned(), json: json.clone(), all: self.all() };
        shown.map(panel).collect()
    }

    /// What each variable is where nobody chooses.
    fn all(&self) -> BTreeMap<String, String> {
        let variables = self.json["templating"]["list"].as_array().into_iter().flatten();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let all = |variable: &Value| Some((text(&variable["name"])?, text(&variable["allValue"])?));
        variables.filter_map(all).collect()
    }

    pub fn variable(&self, name: &str) -> Option<&Value> {
        self.json["templating"]["list"].as_array()?.iter().find(|variable| variable["name"] == name)
    }
}

/// One panel.
#[derive(Debug, Clone)]
pub struct Panel {
    pub dashboard: String,
    pub json: Value,
    all: BTreeMap<String, String>,
}

/// A query of a panel.
#[derive(Debug, Clone)]
pub struct Query {
    pub expr: String,
    pub legend: String,
    all: BTreeMap<String, String>,
}

impl Panel {
    /// For messages: where it is, and what it is called.
    pub fn name(&self) -> String {
        format!("{} '{}'", self.dashboard, self.title())
    }

    pub fn title(&self) -> &str {
        self.json["title"].as_str().unwrap_or_default()
    }

    pub fn unit(&self) -> &str {
        self.json["fieldConfig"]["defaults"]["unit"].as_str().unwrap_or_default()
    }

    pub fn queries(&self) -> Vec<Query> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let targets = self.json["targets"].as_array().into_iter().flatten();
        let query = |target: &Value| Query {
            expr: text(&target["expr"]),
            legend: text(&target["legendFormat"]),
            all: self.all.clone(),
        };
        targets.map(query).collect()
    }
}

impl Query {
    /// With values in the place of Grafana's variables: what they are where nobody chooses.
    pub fn filled(&self, rate_interval: &str) -> String {
        let filled = self.expr.replace("$__rate_interval", rate_interval);
        let fill = |text: String, (name, value): (&String, &String)| text.replace(&format!("${name}"), value);
        let filled = self.all.iter().fold(filled, fill);
        assert!(!filled.contains('$'), "a variable that no dashboard has: {filled}");
        filled
    }

    /// Labels that the legend shows.
    pub fn legend_labels(&self) -> Vec<String> {
        let after = self.legend.split("{{").skip(1);
        after.filter_map(|rest| Some(rest.split_once("}}")?.0.trim().to_owned())).collect()
    }
}

pub fn dashboards() -> Vec<Dashboard> {
    super::folders::names(Path::new(DASHBOARDS))
        .into_iter()
        .map(|name| {
            let text = fs::read_to_string(Path::new(DASHBOARDS).join(name)).expect("a readable dashboard");
            let json = serde_json::from_str(&text).expect("a dashboard in JSON");
            Dashboard { text, json }
        })
        .collect()
}
