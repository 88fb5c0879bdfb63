//! `admin`: who may use the dashboard, and the commands that ask the running server.

use super::error::ConfigError;
use super::json::Setting;
use super::known::warn_of_unknown;
use super::{Admin, Login, Secret, file::member};

/// Shorter ones can be guessed by whoever has the time.
const PASSWORD_CHARACTERS_MIN: usize = 12;

/// The user whom a login without one is for.
const USER: &str = "admin";

/// `user` and `password` are those of the environment, and win.
pub(super) fn read(
    setting: Option<Setting<'_>>,
    user: Option<Setting<'_>>,
    password: Option<Setting<'_>>,
    warnings: &mut Vec<String>,
) -> Result<Option<Admin>, ConfigError> {
    let members = match &setting {
        Some(setting) if setting.is_object() => setting.object()?,
        // A password in the environment is meant to be used.
        Some(setting) if !setting.flag(warnings) && password.is_none() => return Ok(None),
        _ => Vec::new(),
    };
    warn_of_unknown(&members, warnings);
    let user = user.or(member(&members, "user"));
    let Some(password) = password.or(member(&members, "password")) else {
        return match user {
            Some(user) => Err(user.error("names a user without a \"password\" beside it; add one")),
            None => Ok(Some(Admin { login: None })),
        };
    };
    let text = password.text()?;
    let is_fit = |text: &str| !text.chars().any(char::is_control);
    if text.chars().count() < PASSWORD_CHARACTERS_MIN || !is_fit(&text) {
        return Err(password.error(format_args!(
            "must have at least {PASSWORD_CHARACTERS_MIN} characters: it opens the dashboard from anywhere"
        )));
    }
    let name = match user {
        Some(user) => {
            let name = user.text()?;
            // HTTP joins both by a colon.
            if name.is_empty() || name.contains(':') || !is_fit(&name) {
                return Err(user.wrong("must be a name without a colon"));
            }
            name
        }
        None => USER.to_owned(),
    };
    Ok(Some(Admin { login: Some(Login { user: name, password: Secret::new(text) }) }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Admin, Config, Login, Secret};

    fn admin(text: &str, variables: &[(&str, &str)]) -> Result<Option<Admin>, String> {
        let lookup =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let config = Config::parse(Path::new("x.json"), text.as_bytes(), &lookup);
        config.map(|config| config.admin).map_err(|error| error.to_string())
    }

    #[test]
    fn this_machine_alone_or_a_login_or_nobody() {
        let login = |user: &str| {
            Some(Admin { login: Some(Login { user: user.into(), password: Secret::new("correct horse") }) })
        };
        let variable = [("LARAVEL_ECHO_SERVER_ADMIN_PASSWORD", "correct horse")];
        for (text, variables, expected) in [
            ("{}", &[][..], Some(Admin { login: None })),
            (r#"{"admin": true}"#, &[], Some(Admin { login: None })),
            (r#"{"admin": {}}"#, &[], Some(Admin { login: None })),
            (r#"{"admin": false}"#, &[], None),
            (r#"{"admin": {"user": "ops", "password": "correct horse"}}"#, &[], login("ops")),
            (r#"{"admin": {"password": "correct horse"}}"#, &[], login("admin")),
            ("{}", &variable, login("admin")),
            (r#"{"admin": {"user": "ops", "password": "another horse"}}"#, &variable, login("ops")),
        ] {
            assert_eq!(admin(text, variables), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_would_be_no_protection_is_refused() {
        for (text, part) in [
            (r#"{"admin": {"password": "short"}}"#, "12 characters"),
            (r#"{"admin": {"user": "ops"}}"#, "without a \"password\""),
            (r#"{"admin": {"user": "o:s", "password": "correct horse"}}"#, "colon"),
        ] {
            let error = admin(text, &[]).unwrap_err();
            assert!(error.contains(part) && !error.contains("short"), "{error}");
        }
    }
}
