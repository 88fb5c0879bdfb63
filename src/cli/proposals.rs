//! What `init` proposes where a Laravel application is beside it, and from where it has each answer. Without one,
//! nothing: then the old server's defaults stand.

use serde::Serialize;

use crate::doctor::Application;
use crate::doctor::application::Guard;

/// A proposal, and where it comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Proposed<T> {
    pub value: T,
    pub from: String,
}

/// An entry of `clients`.
#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Client {
    pub app_id: String,
    pub key: String,
    /// New: the old server ignores it.
    pub secret: String,
}

/// `databaseConfig.redis`.
#[derive(Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Redis {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_prefix: Option<String>,
}

/// All proposals.
#[derive(Default)]
pub struct Proposals {
    /// The application's folder, for people.
    pub folder: Option<String>,
    pub auth_host: Option<Proposed<String>>,
    pub port: Option<Proposed<String>>,
    pub redis: Option<Proposed<Redis>>,
    pub client: Option<Proposed<Client>>,
    /// Its broadcasting route takes bearer tokens only: the browser has to ask this server.
    pub needs_gateway: bool,
}

impl Proposals {
    /// What the application's files say.
    pub fn of(application: &Application) -> Self {
        let env = |name: &str| application.env.get(name).filter(|text| !text.is_empty()).map(str::to_owned);
        let in_env = |name: &str| format!("{name} in {}", application.file(".env"));
        let client = ["REVERB", "PUSHER"].into_iter().find_map(|family| {
            let variable = |part: &str| format!("{family}_APP_{part}");
            let (app_id, key, secret) = (env(&variable("ID")), env(&variable("KEY"))?, env(&variable("SECRET"))?);
            let value = Client { app_id: app_id.unwrap_or_else(|| key.clone()), key, secret };
            Some(Proposed { value, from: in_env(&variable("KEY")) })
        });
        let port = ["REVERB", "PUSHER"].into_iter().find_map(|family| {
            let host = env(&format!("{family}_HOST"))?;
            let name = format!("{family}_PORT");
            let value = env(&name).filter(|port| port.parse::<u16>().is_ok_and(|port| port >= 1024))?;
            let is_here = matches!(host.as_str(), "localhost" | "127.0.0.1" | "0.0.0.0" | "::1");
            is_here.then(|| Proposed { value, from: in_env(&name) })
        });
        let auth_host = env("APP_URL").filter(|url| url.starts_with("http://") || url.starts_with("https://"));
        let place = application.redis();
        let redis = Redis {
            host: place.host,
            port: place.port.map(|port| port.to_string()),
            username: place.username,
            password: place.password.map(|password| password.expose().to_owned()),
            key_prefix: application.prefix().filter(|prefix| !prefix.is_empty()),
        };
        // These send their events over HTTP.
        let driver = application.connection().map(|connection| application.driver(&connection));
        let by_http = driver.is_some_and(|driver| matches!(driver.as_str(), "pusher" | "reverb"));
        let is_known = !by_http && (redis.host.is_some() || redis.key_prefix.is_some());
        Self {
            folder: Some(application.folder()),
            auth_host: auth_host.map(|value| Proposed { value, from: in_env("APP_URL") }),
            port,
            redis: is_known.then(|| Proposed {
                value: redis,
                from: format!("{} and {}", application.file(".env"), application.file("config/database.php")),
            }),
            client,
            needs_gateway: application.routes.as_ref().is_some_and(|routes| routes.guard == Guard::Bearer),
        }
    }
}

impl Redis {
    /// For people; the password is not shown.
    pub fn shown(&self) -> String {
        let host = self.host.as_deref().unwrap_or("127.0.0.1");
        let port = self.port.as_deref().unwrap_or("6379");
        let password = if self.password.is_some() { ", with its password" } else { "" };
        let prefix = self.key_prefix.as_deref().map(|prefix| format!(", key prefix {prefix:?}")).unwrap_or_default();
        format!("{host}:{port}{password}{prefix}")
    }
}
