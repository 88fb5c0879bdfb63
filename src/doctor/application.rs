//! The Laravel application, as far as its files tell: `.env`, `config/broadcasting.php`, `config/database.php`,
//! the place where its broadcasting route is registered. They are read as text; no PHP runs, so what only the
//! running application knows (packages, real environment variables) is not known here.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::dotenv::DotEnv;
use super::php::{self, Value};
use crate::config::Secret;

/// A file longer than this is none of those that are looked for.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// How many files of one folder are looked at.
const FILES_MAX: usize = 100;

/// What was found of it.
#[derive(Debug)]
pub struct Application {
    folder: PathBuf,
    /// Its `.env`.
    pub env: DotEnv,
    /// `broadcasting`.
    pub(super) broadcasting: Value,
    /// `database`.
    pub(super) database: Value,
    /// Which of `BROADCAST_CONNECTION` and `BROADCAST_DRIVER` its configuration reads; empty if that is not known.
    pub driver_variables: Vec<&'static str>,
    /// `bootstrap/cache/config.php` counts in place of `.env`.
    pub cache: Cache,
    /// Its skeleton is that of Laravel 11 or later.
    pub is_slim: bool,
    /// Where the broadcasting route is registered.
    pub routes: Option<Routes>,
    /// The line of `config/app.php` on which the provider that registers it is commented out.
    pub provider_is_off: Option<usize>,
    /// Its front end names an `authEndpoint`.
    pub has_auth_endpoint: bool,
}

/// `php artisan config:cache`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cache {
    /// There is none.
    None,
    /// It is newer than what it was made of.
    Current,
    /// `.env` has changed since.
    Outdated,
}

/// The call that registers the broadcasting route.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Routes {
    /// The file and the line.
    pub place: String,
    /// Who is known there.
    pub guard: Guard,
}

/// By what the broadcasting route knows who is asking.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Guard {
    /// The session cookie, perhaps tokens too.
    Session,
    /// A bearer token alone.
    Bearer,
    /// Not to be told from the text.
    Unknown,
}

/// Where Laravel publishes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RedisPlace {
    /// Host, or the path of a socket.
    pub host: Option<String>,
    /// TCP port.
    pub port: Option<u16>,
    /// ACL user.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Secret>,
}

/// Variables that only a Laravel application has.
const SIGNS: [&str; 5] = ["APP_KEY", "APP_NAME", "BROADCAST_DRIVER", "BROADCAST_CONNECTION", "APP_URL"];

impl Application {
    /// The application in this folder, if there is one.
    pub fn read(folder: &Path) -> Option<Self> {
        let text = |name: &str| read(&folder.join(name));
        let env = text(".env").map(|text| DotEnv::parse(&text));
        let has_artisan = folder.join("artisan").is_file();
        if !has_artisan && !env.as_ref().is_some_and(|env| SIGNS.iter().any(|name| env.get(name).is_some())) {
            return None;
        }
        let env = env.unwrap_or_default();
        let lookup = |name: &str| env.get(name).map(str::to_owned);
        let own_or_default = |name: &str| {
            text(&format!("config/{name}")).or_else(|| text(&format!("vendor/laravel/framework/config/{name}")))
        };
        let broadcasting_text = own_or_default("broadcasting.php").unwrap_or_default();
        let cached = text("bootstrap/cache/config.php");
        let (broadcasting, database) = match &cached {
            Some(text) => {
                let all = php::returned(text, &|_| None);
                (all.at(&["broadcasting"]).clone(), all.at(&["database"]).clone())
            }
            None => {
                let database = own_or_default("database.php").unwrap_or_default();
                (php::returned(&broadcasting_text, &lookup), php::returned(&database, &lookup))
            }
        };
        let changed = |name: &str| std::fs::metadata(folder.join(name)).and_then(|file| file.modified()).ok();
        let cache = match (&cached, changed("bootstrap/cache/config.php"), changed(".env")) {
            (None, _, _) => Cache::None,
            (_, Some(made), Some(written)) if written > made => Cache::Outdated,
            _ => Cache::Current,
        };
        let default = broadcasting_text.lines().find(|line| line.trim_start().starts_with("'default'"));
        let variables = ["BROADCAST_CONNECTION", "BROADCAST_DRIVER"].into_iter();
        let bootstrap = text("bootstrap/app.php").unwrap_or_default();
        Some(Self {
            driver_variables: variables.filter(|name| default.is_some_and(|line| line.contains(name))).collect(),
            is_slim: bootstrap.contains("Application::configure"),
            routes: routes(folder, bootstrap.contains("statefulApi")),
            provider_is_off: text("config/app.php").and_then(|text| commented_out(&text)),
            has_auth_endpoint: front_end(folder).any(|text| text.contains("authEndpoint")),
            folder: folder.to_owned(),
            env,
            broadcasting,
            database,
            cache,
        })
    }

    /// Where it is, for people.
    pub fn folder(&self) -> String {
        match self.folder.as_os_str().is_empty() || self.folder == Path::new(".") {
            true => "the current folder".to_owned(),
            false => self.folder.display().to_string(),
        }
    }

    /// The path of one of its files, for people.
    pub fn file(&self, name: &str) -> String {
        let path = self.folder.join(name);
        path.strip_prefix(".").unwrap_or(&path).display().to_string()
    }

    /// The variable's place in `.env`, for people: file and line.
    pub fn env_line(&self, name: &str) -> String {
        match self.env.line(name) {
            Some(line) => format!("{}, line {line}", self.file(".env")),
            None => self.file(".env"),
        }
    }

    /// The name of the broadcast connection that is the default one, if it can be told.
    pub fn connection(&self) -> Option<String> {
        match self.broadcasting.at(&["default"]) {
            Value::Text(name) => Some(name.clone()),
            Value::Null | Value::Bool(false) if matches!(self.broadcasting, Value::Array(_)) => Some("null".to_owned()),
            _ => ["BROADCAST_CONNECTION", "BROADCAST_DRIVER"]
                .iter()
                .find_map(|name| self.env.get(name))
                .map(str::to_owned),
        }
    }

    /// Whether `config/broadcasting.php` is known and lacks the connection.
    pub fn lacks_connection(&self, name: &str) -> bool {
        let connections = self.broadcasting.at(&["connections"]);
        matches!(connections, Value::Array(_)) && *connections.at(&[name]) == Value::Null
    }

    /// The driver of the connection; one of that name, if nothing else is known.
    pub fn driver(&self, connection: &str) -> String {
        let driver = self.broadcasting.at(&["connections", connection, "driver"]).text();
        driver.unwrap_or(connection).to_owned()
    }

    /// A setting of the broadcast connection, or else the variable that stands for it in Laravel's own files.
    pub fn broadcast_setting(&self, connection: &str, keys: &[&str], variable: &str) -> Option<String> {
        let path = [&["connections", connection], keys].concat();
        match self.broadcasting.at(&path) {
            Value::Text(text) => Some(text.clone()),
            Value::Unknown => self.env.get(variable).map(str::to_owned),
            _ => None,
        }
    }

    /// The connection of `config/database.php` that it publishes by, or would with its redis driver.
    fn redis_connection(&self) -> String {
        let name = self.connection().unwrap_or_else(|| "redis".to_owned());
        let of = |name: &str| self.broadcasting.at(&["connections", name, "connection"]).text();
        of(&name).or_else(|| of("redis")).unwrap_or("default").to_owned()
    }

    /// What it puts before the names of Redis channels, if that can be told.
    pub fn prefix(&self) -> Option<String> {
        let connection = self.redis_connection();
        let own = ["redis", &connection];
        let places =
            [&[own[0], own[1], "prefix"][..], &[own[0], own[1], "options", "prefix"], &["redis", "options", "prefix"]];
        for place in places {
            match self.database.at(place) {
                Value::Text(prefix) => return Some(prefix.clone()),
                Value::Unknown => return self.env.get("REDIS_PREFIX").map(str::to_owned),
                _ => {}
            }
        }
        // The file is there and names none.
        Some(String::new())
    }

    /// Where it publishes, as far as that can be told.
    pub fn redis(&self) -> RedisPlace {
        let connection = self.redis_connection();
        let setting = |key: &str, variable: &str| match self.database.at(&["redis", &connection, key]) {
            Value::Text(text) => Some(text.clone()),
            Value::Unknown => self.env.get(variable).map(str::to_owned),
            _ => None,
        };
        let place = RedisPlace {
            host: setting("host", "REDIS_HOST"),
            port: setting("port", "REDIS_PORT").and_then(|port| port.parse().ok()),
            username: setting("username", "REDIS_USERNAME"),
            password: setting("password", "REDIS_PASSWORD").filter(|text| !text.is_empty()).map(Secret::new),
        };
        let place = RedisPlace { username: place.username.filter(|text| !text.is_empty()), ..place };
        let Some(url) = setting("url", "REDIS_URL").and_then(|url| url::Url::parse(&url).ok()) else { return place };
        let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        RedisPlace {
            host: url.host_str().map(str::to_owned).or(place.host),
            port: url.port().or(place.port),
            username: Some(decoded(url.username())).filter(|text| !text.is_empty()).or(place.username),
            password: url.password().map(decoded).map(Secret::new).or(place.password),
        }
    }
}

fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok().filter(|file| file.metadata().is_ok_and(|found| found.is_file()))?;
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The files of a folder that have one of these endings, in order.
fn files(folder: PathBuf, endings: &'static [&'static str]) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().take(FILES_MAX);
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    let is_right = |path: &PathBuf| path.extension().is_some_and(|ending| endings.iter().any(|right| ending == *right));
    paths.into_iter().filter(is_right)
}

fn front_end(folder: &Path) -> impl Iterator<Item = String> {
    files(folder.join("resources/js"), &["js", "ts", "jsx", "tsx"]).filter_map(|path| read(&path))
}

fn routes(folder: &Path, is_stateful: bool) -> Option<Routes> {
    let providers = files(folder.join("app/Providers"), &["php"]);
    let all = providers.chain(files(folder.join("routes"), &["php"])).chain([folder.join("bootstrap/app.php")]);
    all.filter_map(|path| Some((read(&path)?, path))).find_map(|(text, path)| {
        let (line, call) = route_call(&text)?;
        Some(Routes { place: format!("{}, line {line}", path.display()), guard: guard(&call, is_stateful) })
    })
}

/// The first `Broadcast::routes(…)` or `withBroadcasting(…)` that is no comment: its line and its arguments.
fn route_call(text: &str) -> Option<(usize, String)> {
    const ARGUMENTS_CHARS_MAX: usize = 1000;
    let mut offset = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let is_comment = ["//", "#", "*", "/*"].iter().any(|sign| line.trim_start().starts_with(sign));
        let call = ["Broadcast::routes(", "withBroadcasting("];
        let found = call.iter().find_map(|call| line.find(call).map(|at| offset + at + call.len()));
        if let Some(start) = found.filter(|_| !is_comment) {
            let mut open = 1_usize;
            let is_inside = |c: &char| {
                match c {
                    '(' => open += 1,
                    ')' => open -= 1,
                    _ => {}
                }
                open > 0
            };
            return Some((index + 1, text[start..].chars().take(ARGUMENTS_CHARS_MAX).take_while(is_inside).collect()));
        }
        offset += line.len();
    }
    None
}

fn guard(arguments: &str, is_stateful: bool) -> Guard {
    let words: Vec<&str> = arguments.split(['\'', '"']).skip(1).step_by(2).collect();
    let guards = words.iter().filter(|word| word.starts_with("auth:")).collect::<Vec<_>>();
    if !arguments.contains("middleware") || words.contains(&"web") {
        return Guard::Session;
    }
    match guards.is_empty() || is_stateful {
        true => Guard::Unknown,
        false => Guard::Bearer,
    }
}

fn commented_out(text: &str) -> Option<usize> {
    let is_off = |line: &str| line.trim_start().starts_with("//") && line.contains("BroadcastServiceProvider::class");
    text.lines().position(|line| is_off(line) && line.contains("App\\Providers")).map(|index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn application(files: &[(&str, &str)]) -> Option<Application> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Application::read(dir.path())
    }

    const DATABASE: &str = "<?php\nreturn ['redis' => ['options' => ['prefix' => env('REDIS_PREFIX', Str::slug(env('APP_NAME', 'laravel'), '_').'_database_')],\n\
        'default' => ['url' => env('REDIS_URL'), 'host' => env('REDIS_HOST', '127.0.0.1'), 'password' => env('REDIS_PASSWORD'), 'port' => env('REDIS_PORT', '6379')]]];";
    const BROADCASTING: &str = "<?php\nreturn [\n    'default' => env('BROADCAST_CONNECTION', 'null'),\n    'connections' => ['redis' => ['driver' => 'redis', 'connection' => 'default'], 'log' => ['driver' => 'log']],\n];";

    #[test]
    fn what_is_an_application() {
        assert!(application(&[]).is_none());
        // This server's own.
        assert!(application(&[(".env", "LARAVEL_ECHO_SERVER_PORT=1\n")]).is_none());
        assert!(application(&[(".env", "APP_NAME=a\n")]).is_some());
        assert!(application(&[("artisan", "")]).is_some());
    }

    #[test]
    fn where_it_publishes_and_how() {
        let env = "APP_NAME=\"My Shop\"\nBROADCAST_CONNECTION=redis\nREDIS_PASSWORD=null\nREDIS_PORT=6380\n";
        let files = |env: &'static str| {
            [(".env", env), ("config/database.php", DATABASE), ("config/broadcasting.php", BROADCASTING)]
        };
        let app = application(&files(env)).unwrap();
        assert_eq!(app.connection().as_deref(), Some("redis"));
        assert_eq!((app.driver("redis"), app.driver("other")), ("redis".to_owned(), "other".to_owned()));
        assert_eq!((app.lacks_connection("redis"), app.lacks_connection("pusher")), (false, true));
        assert_eq!(app.driver_variables, ["BROADCAST_CONNECTION"]);
        assert_eq!(app.prefix().as_deref(), Some("my_shop_database_"));
        let place = RedisPlace { host: Some("127.0.0.1".into()), port: Some(6380), ..RedisPlace::default() };
        assert_eq!(app.redis(), place);
        assert!(app.env_line("REDIS_PORT").ends_with(".env, line 4"), "{}", app.env_line("REDIS_PORT"));

        let app = application(&files("APP_NAME=Zoë\nREDIS_URL=redis://u:p%20w@redis.test:7000/1\n")).unwrap();
        assert_eq!(app.connection().as_deref(), Some("null"));
        assert_eq!(app.prefix(), None);
        let place = app.redis();
        assert_eq!(
            (place.host.as_deref(), place.port, place.password),
            (Some("redis.test"), Some(7000), Some(Secret::new("p w")))
        );
        // What it would do with another driver.
        let files = files("BROADCAST_CONNECTION=log\nREDIS_HOST=elsewhere\n");
        let named = BROADCASTING.replace("'connection' => 'default'", "'connection' => 'events'");
        let database = DATABASE.replace("'default' =>", "'events' =>");
        let app =
            application(&[files[0], ("config/broadcasting.php", &named), ("config/database.php", &database)]).unwrap();
        assert_eq!(app.redis().host.as_deref(), Some("elsewhere"));
        // Without its files, the variables are all there is.
        let app = application(&[(".env", "BROADCAST_DRIVER=redis\nREDIS_PREFIX=shop:\nREDIS_HOST=h\n")]).unwrap();
        assert_eq!((app.connection().as_deref(), app.prefix().as_deref()), (Some("redis"), Some("shop:")));
        assert_eq!(app.redis().host.as_deref(), Some("h"));
    }

    #[test]
    fn a_cached_configuration_counts() {
        let cached = "<?php return array('broadcasting' => array('default' => 'log'), 'database' => array('redis' => array('options' => array('prefix' => 'p_'))));";
        let app =
            application(&[(".env", "BROADCAST_CONNECTION=redis\n"), ("bootstrap/cache/config.php", cached)]).unwrap();
        assert_eq!((app.connection().as_deref(), app.prefix().as_deref()), (Some("log"), Some("p_")));
        assert_ne!(app.cache, Cache::None);
    }

    #[test]
    fn who_is_known_at_the_broadcasting_route() {
        for (text, expected) in [
            ("Broadcast::routes();", Guard::Session),
            ("Broadcast::routes(['middleware' => ['web', 'auth:web,api']]);", Guard::Session),
            ("Broadcast::routes([\n  'middleware' => ['auth:sanctum'],\n]);", Guard::Bearer),
            ("Broadcast::routes([\"prefix\" => \"api\", \"middleware\" => [\"api\", \"auth:api\"]]);", Guard::Bearer),
            ("Broadcast::routes(['middleware' => [Own::class]]);", Guard::Unknown),
            ("->withBroadcasting(__DIR__.'/../routes/channels.php')", Guard::Session),
            (
                "->withBroadcasting(__DIR__.'/x.php', ['prefix' => 'api', 'middleware' => ['auth:sanctum']])",
                Guard::Bearer,
            ),
        ] {
            let file = format!("<?php\n// Broadcast::routes();\n{text}\n");
            let app = application(&[("artisan", ""), ("app/Providers/BroadcastServiceProvider.php", &file)]).unwrap();
            let routes = app.routes.unwrap();
            assert_eq!(routes.guard, expected, "{text}");
            assert!(routes.place.ends_with("BroadcastServiceProvider.php, line 3"), "{}", routes.place);
        }
        let off = "<?php\nreturn ['providers' => [\n        // App\\Providers\\BroadcastServiceProvider::class,\n]];";
        let app = application(&[("artisan", ""), ("config/app.php", off)]).unwrap();
        assert_eq!((app.routes, app.provider_is_off), (None, Some(3)));
    }
}
