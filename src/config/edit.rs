//! Changes `clients` in the text of a configuration file and leaves every other byte as it is:
//! unknown keys, order, indentation.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::value::RawValue;

use super::error::ConfigError;
use super::json::{Document, Setting};

/// What became of a client that was to be added.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Added {
    /// It is new.
    New,
    /// The id was there; it has another key now.
    Updated,
}

/// A client to write.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// `appId`.
    pub id: &'a str,
    /// `key`.
    pub key: &'a str,
    /// `secret` of a client that is new; one that is there keeps what it has.
    pub secret: Option<&'a str>,
}

/// Adds the client, or gives the one of this id another key. `path` is what errors call the file.
///
/// # Errors
/// The text is not a JSON object, or its `clients` is no list of objects.
pub fn add_client(path: &Path, text: &str, client: Client<'_>) -> Result<(String, Added), ConfigError> {
    let document = Document::parse(path, text)?;
    let root = document.root();
    let key = json_text(client.key);
    let Some(clients) = list_of_clients(&root)? else {
        let members = root.object()?;
        let list = format!("\"clients\": {}", new_list(text, &client));
        // Behind the brace; a `clients` that is null would win over it, so that one is replaced.
        if let Some(null) = null_clients(text) {
            return Ok((splice(text, null, &new_list(text, &client)), Added::New));
        }
        let at = text.find('{').unwrap_or_default() + 1;
        let comma = if members.is_empty() && !text[at..].contains(':') { "" } else { "," };
        let before = if text.contains('\n') { format!("\n{}", unit(text)) } else { " ".to_owned() };
        return Ok((splice(text, at..at, &format!("{before}{list}{comma}")), Added::New));
    };
    for element in &clients {
        if !is_client(element, client.id)? {
            continue;
        }
        let edited = match element.object()?.into_iter().find(|(name, _)| name == "key") {
            Some((_, old)) => splice(text, old.span(), &key),
            None => {
                let at = element.span().start + 1;
                splice(text, at..at, &format!(" \"key\": {key},"))
            }
        };
        return Ok((edited, Added::Updated));
    }
    let edited = match clients.last().map(Setting::span) {
        Some(last) => {
            // As the one before: in its style, on a line of its own or beside it.
            let before = &text[..clients[clients.len() - 1].span().start];
            let gap = &before[before.trim_end().len()..];
            let element = &text[last.clone()];
            let client = if element.contains('\n') {
                tall(&client, indentation(gap, element), unit(text))
            } else {
                flat(&client)
            };
            let gap = if gap.is_empty() { " " } else { gap };
            splice(text, last.end..last.end, &format!(",{gap}{client}"))
        }
        None => {
            let Some((_, list)) = root.object()?.into_iter().find(|(name, _)| name == "clients") else {
                return Ok((text.to_owned(), Added::New));
            };
            splice(text, list.span(), &new_list(text, &client))
        }
    };
    Ok((edited, Added::New))
}

/// Takes the client out. `None` if there is none of this id.
///
/// # Errors
/// As [`add_client`].
pub fn remove_client(path: &Path, text: &str, id: &str) -> Result<Option<String>, ConfigError> {
    let document = Document::parse(path, text)?;
    let clients = list_of_clients(&document.root())?.unwrap_or_default();
    for (index, element) in clients.iter().enumerate() {
        if !is_client(element, id)? {
            continue;
        }
        let span = element.span();
        // The comma goes with it: the one behind it, or for the last one that before.
        let cut = match (index.checked_sub(1), clients.get(index + 1)) {
            (_, Some(next)) => span.start..next.span().start,
            (Some(previous), None) => clients[previous].span().end..span.end,
            (None, None) => {
                let (before, after) = (&text[..span.start], &text[span.end..]);
                before.trim_end().len()..span.end + (after.len() - after.trim_start().len())
            }
        };
        return Ok(Some(splice(text, cut, "")));
    }
    Ok(None)
}

fn list_of_clients<'a>(root: &Setting<'a>) -> Result<Option<Vec<Setting<'a>>>, ConfigError> {
    let clients = root.object()?.into_iter().find(|(name, _)| name == "clients");
    clients.map(|(_, list)| list.list()).transpose()
}

fn is_client(element: &Setting<'_>, id: &str) -> Result<bool, ConfigError> {
    let members = element.object()?;
    // The old command wrote ids of digits as numbers.
    let own = members.iter().find(|(name, _)| name == "appId").map(|(_, id)| id.text()).transpose()?;
    Ok(own.as_deref() == Some(id))
}

/// Where a `"clients": null` has its null.
fn null_clients(text: &str) -> Option<std::ops::Range<usize>> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
    let null = members.get("clients")?.get();
    let start = (null.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    Some(start..start + null.len())
}

fn new_list(text: &str, client: &Client<'_>) -> String {
    let unit = unit(text);
    if !text.contains('\n') {
        return format!("[ {} ]", flat(client));
    }
    let deep = unit.repeat(2);
    format!("[\n{deep}{}\n{unit}]", tall(client, &deep, unit))
}

fn pairs(client: &Client<'_>) -> Vec<String> {
    let pairs = [("appId", Some(client.id)), ("key", Some(client.key)), ("secret", client.secret)];
    pairs.into_iter().filter_map(|(name, value)| Some(format!("\"{name}\": {}", json_text(value?)))).collect()
}

fn flat(client: &Client<'_>) -> String {
    format!("{{ {} }}", pairs(client).join(", "))
}

fn tall(client: &Client<'_>, indentation: &str, unit: &str) -> String {
    let between = format!(",\n{indentation}{unit}");
    format!("{{\n{indentation}{unit}{}\n{indentation}}}", pairs(client).join(&between))
}

/// How far an element is indented: what stands before it on its line, or before its last bracket.
fn indentation<'a>(gap: &'a str, element: &'a str) -> &'a str {
    let of = |text: &'a str| text.rsplit_once('\n').map(|(_, line)| &line[..line.len() - line.trim_start().len()]);
    of(gap).or_else(|| of(element)).unwrap_or_default()
}

/// What the file indents with: the white space before its first key that begins a line.
fn unit(text: &str) -> &str {
    let line = text.lines().skip(1).find(|line| line.trim_start().starts_with('"')).unwrap_or("\t");
    match &line[..line.len() - line.trim_start().len()] {
        "" => "\t",
        unit => unit,
    }
}

fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn splice(text: &str, range: std::ops::Range<usize>, with: &str) -> String {
    [&text[..range.start], with, &text[range.end..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(text: &str, id: &str) -> (String, Added) {
        add_client(Path::new("f.json"), text, Client { id, key: "K", secret: None }).unwrap()
    }

    fn remove(text: &str, id: &str) -> Option<String> {
        remove_client(Path::new("f.json"), text, id).unwrap()
    }

    #[test]
    fn a_client_is_added_in_the_style_of_the_file() {
        for (before, after) in [
            // As the old wizard wrote it.
            (
                "{\n\t\"authHost\": \"x\",\n\t\"clients\": [],\n\t\"odd\": 1.50\n}",
                "{\n\t\"authHost\": \"x\",\n\t\"clients\": [\n\t\t{\n\t\t\t\"appId\": \"b\",\n\t\t\t\"key\": \"K\"\n\t\t}\n\t],\n\t\"odd\": 1.50\n}",
            ),
            (
                "{\n  \"clients\": [\n    {\n      \"appId\": \"a\",\n      \"key\": \"k\"\n    }\n  ]\n}\n",
                "{\n  \"clients\": [\n    {\n      \"appId\": \"a\",\n      \"key\": \"k\"\n    },\n    {\n      \"appId\": \"b\",\n      \"key\": \"K\"\n    }\n  ]\n}\n",
            ),
            (
                "{\n  \"clients\": [\n    { \"appId\": \"a\", \"key\": \"k\" }\n  ]\n}",
                "{\n  \"clients\": [\n    { \"appId\": \"a\", \"key\": \"k\" },\n    { \"appId\": \"b\", \"key\": \"K\" }\n  ]\n}",
            ),
            (
                "{ \"clients\": [ {\"appId\":\"a\"} ] }",
                "{ \"clients\": [ {\"appId\":\"a\"}, { \"appId\": \"b\", \"key\": \"K\" } ] }",
            ),
            (
                "{\"clients\":[{\"appId\":\"a\"}]}",
                "{\"clients\":[{\"appId\":\"a\"}, { \"appId\": \"b\", \"key\": \"K\" }]}",
            ),
            ("{}", "{ \"clients\": [ { \"appId\": \"b\", \"key\": \"K\" } ]}"),
            ("{\"port\":1}", "{ \"clients\": [ { \"appId\": \"b\", \"key\": \"K\" } ],\"port\":1}"),
            ("{\"clients\":null}", "{\"clients\":[ { \"appId\": \"b\", \"key\": \"K\" } ]}"),
            (
                "{\n    \"port\": 1\n}",
                "{\n    \"clients\": [\n        {\n            \"appId\": \"b\",\n            \"key\": \"K\"\n        }\n    ],\n    \"port\": 1\n}",
            ),
        ] {
            assert_eq!(add(before, "b"), (after.to_owned(), Added::New));
            assert!(serde_json::from_str::<serde_json::Value>(after).is_ok(), "{after}");
        }
    }

    #[test]
    fn a_client_that_is_there_gets_another_key() {
        let text = "{ \"clients\": [ { \"appId\": 12, \"key\": \"old\", \"x\": [1, 2] } ],\n \"odd\": true }";
        assert_eq!(add(text, "12"), (text.replace("old", "K"), Added::Updated));
        let (text, added) = add("{ \"clients\": [ { \"appId\": \"a\" } ] }", "a");
        assert_eq!(
            (text.as_str(), added),
            ("{ \"clients\": [ { \"key\": \"K\", \"appId\": \"a\" } ] }", Added::Updated)
        );
    }

    #[test]
    fn a_client_is_removed_with_its_comma() {
        let list = |elements: &str| format!("{{\n\t\"clients\": [{elements}],\n\t\"odd\": 1\n}}");
        for (before, id, after) in [
            ("\n{\"appId\":\"a\"},\n{\"appId\":\"b\"},\n{\"appId\":3}\n", "a", "\n{\"appId\":\"b\"},\n{\"appId\":3}\n"),
            ("\n{\"appId\":\"a\"},\n{\"appId\":\"b\"},\n{\"appId\":3}\n", "b", "\n{\"appId\":\"a\"},\n{\"appId\":3}\n"),
            (
                "\n{\"appId\":\"a\"},\n{\"appId\":\"b\"},\n{\"appId\":3}\n",
                "3",
                "\n{\"appId\":\"a\"},\n{\"appId\":\"b\"}\n",
            ),
            ("\n\t\t{\"appId\":\"a\"}\n\t", "a", ""),
        ] {
            assert_eq!(remove(&list(before), id), Some(list(after)));
        }
        assert_eq!(remove(&list("{\"appId\":\"a\"}"), "b"), None);
        assert_eq!(remove("{}", "a"), None);
    }

    #[test]
    fn what_is_added_can_be_removed() {
        for text in
            ["{\n\t\"clients\": [],\n\t\"port\": 1\n}", "{ \"clients\": [ { \"appId\": \"z\", \"key\": \"k\" } ] }"]
        {
            let (added, _) = add(text, "new");
            assert_eq!(remove(&added, "new").as_deref(), Some(text));
        }
    }

    #[test]
    fn what_is_no_list_of_clients_is_refused_by_name() {
        for text in ["", "[]", "{ \"clients\": {} }", "{ \"clients\": [ 5 ] }"] {
            let client = Client { id: "a", key: "k", secret: None };
            let error = add_client(Path::new("f.json"), text, client).unwrap_err().to_string();
            assert!(error.starts_with("f.json"), "{error}");
        }
    }
}
