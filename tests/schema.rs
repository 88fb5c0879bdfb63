//! `schema/laravel-echo-server.schema.json`, by which editors complete and check configuration files, is what
//! `src/config/known.rs` and the tables of `docs/settings.md` say. After a change there,
//! `UPDATE_SCHEMA=1 cargo test --test schema` writes it anew. That files are judged by it as by the server:
//! `tests/e2e/schema.test.mjs`.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

const SCHEMA: &str = "schema/laravel-echo-server.schema.json";

/// Names that stand for a comment, `$schema` among them.
const COMMENT: &str = "^[_/#$]";

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// What the type of a key is, where its default does not tell.
fn special(key: &str) -> Option<Value> {
    let server = json!({ "type": "object", "properties": {
        "host": { "type": "string", "description": "host" }, "port": number() } });
    Some(match key {
        "authHost" | "socketio.origins" => texts(),
        "clients[].appId" | "clients[].key" | "clients[].secret" | "databaseConfig.redis.password" | "socketMode" => {
            json!({ "type": ["string", "number", "null"] })
        }
        // The old server took the end of a URL.
        "port" => {
            json!({ "anyOf": [{ "type": ["integer", "null"] }, { "type": "string", "pattern": "(^|:)[0-9]+/?$" }] })
        }
        "shards" | "metrics.port" | "httpsPort" => number(),
        "protocol" => one_of(&["http", "https"]),
        "logFormat" => one_of(&["auto", "text", "json"]),
        "resume.sameSite" => one_of(&["lax", "none"]),
        "resume.channels" => {
            let mode = json!({ "enum": ["at-least-once", "at-most-once", "off"] });
            json!({ "type": ["object", "null"], "additionalProperties": mode })
        }
        "database" => one_of(&["redis", "sqlite"]),
        "httpApiKeyAuth" => one_of(&["loopback", "anywhere", "off"]),
        "databaseConfig.redis.family" => json!({ "enum": [0, 4, 6, "0", "4", "6", "IPv4", "IPv6", null] }),
        "socketio.transports" => {
            json!({ "anyOf": [text(), { "type": "array", "items": { "enum": ["websocket", "polling"] } }] })
        }
        "clients[].webhooks[].events" | "clients[].webhooks[].event_types" => {
            let names = [
                "channel_occupied",
                "channel_vacated",
                "member_added",
                "member_removed",
                "client_event",
                "cache_miss",
                "subscription_count",
            ];
            json!({ "type": "array", "items": { "enum": names } })
        }
        "clients[].webhooks[].headers" => {
            json!({ "type": ["object", "null"], "additionalProperties": { "type": "string" } })
        }
        "databaseConfig.redis.sentinels" | "databaseConfig.redis.cluster" => {
            json!({ "type": ["array", "null"], "items": { "anyOf": [text(), server] } })
        }
        _ => return None,
    })
}

/// What else an object may be.
fn or_else(key: &str) -> Option<Value> {
    Some(match key {
        "admin" | "cluster" | "metrics" | "resume" | "databaseConfig.redis.tls" => switch(),
        "databaseConfig.redis" => text(),
        _ => return None,
    })
}

fn text() -> Value {
    json!({ "type": ["string", "null"] })
}

/// A list, or one alone.
fn texts() -> Value {
    json!({ "anyOf": [text(), { "type": "array", "items": text() }] })
}

fn number() -> Value {
    json!({ "anyOf": [{ "type": ["integer", "null"] }, { "type": "string", "pattern": "^[0-9]+$" }] })
}

fn switch() -> Value {
    json!({ "anyOf": [{ "type": ["boolean", "null"] }, { "enum": ["true", "false", ""] }] })
}

fn one_of(values: &[&str]) -> Value {
    let mut values: Vec<Value> = values.iter().map(|value| json!(value)).collect();
    values.push(Value::Null);
    json!({ "enum": values })
}

/// A row of the tables of settings.
#[derive(Clone, Default)]
struct Row {
    default: String,
    meaning: String,
}

/// Each key with what its row says; several keys of one row share it, and their defaults, if there are as many.
fn rows() -> BTreeMap<String, Row> {
    let document = read("docs/settings.md");
    let (settings, _) = document.split_once("## Variables of the environment").unwrap();
    let mut rows = BTreeMap::new();
    for line in settings.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        // Of limits there is one cell more: what happens beyond.
        let ["", keys, default, meaning, ..] = cells[..] else { panic!("not three cells, or four: {line}") };
        let keys: Vec<&str> = keys.split('`').skip(1).step_by(2).collect();
        let defaults: Vec<&str> = default.split(", ").collect();
        for (index, key) in keys.iter().enumerate() {
            let default = if defaults.len() == keys.len() { defaults[index] } else { default };
            rows.insert((*key).to_owned(), Row { default: default.to_owned(), meaning: plain(meaning) });
        }
        // Other names for the same are in the text.
        for key in meaning.split('`').skip(1).step_by(2).filter(|key| key.starts_with("clients[].webhooks[].")) {
            rows.entry(key.to_owned()).or_insert_with(|| Row { default: String::new(), meaning: plain(meaning) });
        }
    }
    assert!(rows.len() > 80, "only {} rows", rows.len());
    rows
}

/// Without the signs of Markdown.
fn plain(markdown: &str) -> String {
    let mut text = markdown.to_owned();
    while let Some(middle) = text.find("](") {
        let begin = text[..middle].rfind('[').unwrap();
        let end = middle + text[middle..].find(')').unwrap();
        text = format!("{}{}{}", &text[..begin], &text[begin + 1..middle], &text[end + 1..]);
    }
    // What begins with code does not begin with a word.
    if text.starts_with('`') {
        return text.replace('`', "");
    }
    let text = text.replace('`', "");
    let mut first = text.chars();
    first.next().map(|letter| letter.to_uppercase().chain(first).collect()).unwrap_or_default()
}

/// The default as JSON, if the cell begins with more than words; text in code is a text.
fn default_of(cell: &str) -> Option<Value> {
    let first = match cell.strip_prefix('`') {
        Some(rest) => rest.split_once('`').filter(|(_, rest)| rest.is_empty() || rest.starts_with([':', ';']))?.0,
        None => cell.split([':', ';']).next().unwrap().trim(),
    };
    match serde_json::from_str(first) {
        // Octal digits are a text.
        Ok(value) if !(first.starts_with('0') && first.len() > 1) => Some(value),
        _ if cell.starts_with('`') => Some(json!(first)),
        _ => None,
    }
}

fn table(name: &str) -> Vec<String> {
    let known = read("src/config/known.rs");
    let rest = known.split(&format!("const {name}: &[&str] = &[")).nth(1).unwrap();
    rest.split("];").next().unwrap().split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The schema of what stands under `parent` (a key, or nothing for the file) among these keys.
fn object(parent: &str, keys: &BTreeMap<String, Value>) -> Value {
    let dot = if parent.is_empty() { String::new() } else { format!("{parent}.") };
    let mut properties = Map::new();
    if parent.is_empty() {
        properties.insert(
            "$schema".to_owned(),
            json!({ "type": "string", "description": "Where this description of the file is." }),
        );
    }
    for (key, own) in keys {
        let Some(name) = key.strip_prefix(&dot).filter(|name| !name.contains('.') && !name.contains("[]")) else {
            continue;
        };
        let has = |prefix: &str| keys.keys().any(|key| key.starts_with(prefix));
        let mut schema = own.clone();
        let inside = if has(&format!("{key}[].")) {
            let mut element = object(&format!("{key}[]"), keys);
            if key == "clients" {
                element["required"] = json!(["appId", "key"]);
            }
            Some(json!({ "type": ["array", "null"], "items": element }))
        } else if has(&format!("{key}.")) {
            Some(object(key, keys))
        } else {
            None
        };
        if let Some(inside) = inside {
            match or_else(key) {
                Some(other) => schema["anyOf"] = json!([inside, other]),
                None => schema.as_object_mut().unwrap().extend(inside.as_object().unwrap().clone()),
            }
        }
        properties.insert(name.to_owned(), schema);
    }
    json!({ "type": ["object", "null"], "properties": properties, "patternProperties": { COMMENT: {} }, "additionalProperties": false })
}

fn schema() -> Value {
    let rows = rows();
    let mut keys = BTreeMap::new();
    for key in table("USED") {
        let is_parent = |row: &&String| row.starts_with(&format!("{key}.")) || row.starts_with(&format!("{key}[]."));
        let has_inside = rows.keys().any(|row| is_parent(&row)) || key == "clients[].limits";
        let row = rows.get(&key).cloned().unwrap_or_default();
        // Another limit's name may be a limit's default.
        let default = default_of(&row.default).filter(|default| !key.starts_with("limits.") || default.is_number());
        let mut own = match (&default, special(&key)) {
            (_, Some(special)) => special,
            _ if has_inside => json!({}),
            _ if key.starts_with("limits.") => number(),
            (Some(Value::Number(_)), _) => number(),
            (Some(Value::Array(_)), _) => texts(),
            (Some(Value::Bool(_)), _) => switch(),
            _ => text(),
        };
        if !row.meaning.is_empty() {
            own["description"] = json!(row.meaning);
        }
        if let Some(default) = default.filter(|_| !has_inside || or_else(&key).is_some()) {
            own["default"] = default;
        }
        keys.insert(key, own);
    }
    for key in table("OLD") {
        keys.insert(key, json!({ "description": "Of the old server; it does nothing here.", "deprecated": true }));
    }
    let source = read("src/config/limits.rs");
    let whole_server = source.split("const WHOLE_SERVER").nth(1).and_then(|rest| rest.split("];").next()).unwrap();
    let whole_server: Vec<&str> = whole_server.split('"').skip(1).step_by(2).collect();
    assert!(whole_server.len() > 4, "only {whole_server:?}");
    // An app's own limits are those of all, without their defaults.
    let limits: Vec<(String, Value)> = keys
        .iter()
        .filter_map(|(key, own)| Some((key.strip_prefix("limits.")?.to_owned(), own.clone())))
        .filter(|(name, _)| !whole_server.contains(&name.as_str()))
        .collect();
    for (name, mut own) in limits {
        own.as_object_mut().unwrap().remove("default");
        keys.insert(format!("clients[].limits.{name}"), own);
    }
    let mut schema = object("", &keys);
    schema["type"] = json!("object");
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema["title"] = json!("laravel-echo-server.json");
    schema
}

#[test]
fn the_schema_is_what_the_settings_are() {
    let text = format!("{}\n", serde_json::to_string_pretty(&schema()).unwrap());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(SCHEMA);
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let is = fs::read_to_string(&path).unwrap();
    assert!(
        is == text,
        "{SCHEMA} is not what the settings are: UPDATE_SCHEMA=1 cargo test --test schema writes it anew"
    );
}

#[test]
fn every_key_is_described_with_its_type() {
    let schema = schema();
    let described = rows();
    for key in table("USED") {
        assert!(described.contains_key(&key) || is_group(&key), "docs/settings.md has no row for {key}");
    }
    let port = &schema["properties"]["databaseConfig"]["properties"]["redis"]["anyOf"][0]["properties"]["port"];
    assert_eq!((&port["default"], &port["anyOf"]), (&json!(6379), &number()["anyOf"]));
    let app = &schema["properties"]["clients"]["items"];
    assert_eq!(app["required"], json!(["appId", "key"]));
    assert_eq!(app["properties"]["webhooks"]["items"]["properties"]["url"]["type"], json!(["string", "null"]));
    assert_eq!(app["properties"]["limits"]["properties"]["messageBytes"], Value::Null);
    assert_eq!(schema["properties"]["proxy"]["default"], json!(false));
}

/// Objects that need no row of their own: what is in them has.
fn is_group(key: &str) -> bool {
    ["subscribers", "socketio"].contains(&key)
}
