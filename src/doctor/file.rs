//! The configuration file: whether it can be read, what is odd in it.

use super::finding::Finding;
use super::in_list;
use crate::config::{Config, ConfigError};

pub(super) fn judge(config: &Result<Config, ConfigError>, dotenv: &[String]) -> Vec<Finding> {
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            let finding = Finding::problem("file.read", error.to_string());
            return vec![finding.why("The server does not start with it, and nothing else could be looked at.")];
        }
    };
    let apps: Vec<&str> =
        config.apps.iter().map(|app| app.key.as_str()).filter(|_| !config.apps[0].id.is_empty()).collect();
    let apps = match apps.is_empty() {
        true => "no app".to_owned(),
        false => format!("the app keys {}", in_list(apps)),
    };
    let mut findings = vec![Finding::ok("file.read", format!("{} can be read; it has {apps}", config.path.display()))];
    findings.extend(dotenv.iter().chain(&config.warnings).map(|warning| Finding::warning("file.settings", warning)));
    findings
}
