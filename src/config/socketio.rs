//! `socketio`: options of the old server's Socket.IO that matter here.

use std::path::PathBuf;
use std::time::Duration;

use super::SocketIo;
use super::error::ConfigError;
use super::json::Setting;
use super::known::warn_of_unknown;

pub(super) fn read(setting: &Setting<'_>, warnings: &mut Vec<String>) -> Result<SocketIo, ConfigError> {
    let mut socketio = SocketIo::default();
    let members = setting.object()?;
    warn_of_unknown(&members, warnings);
    let milliseconds = |setting: &Setting<'_>, example| {
        let must = format_args!("must be a number of milliseconds from 1000 to 3600000, as {example}");
        setting.whole(1_000..=3_600_000, must).map(Duration::from_millis)
    };
    for (name, setting) in &members {
        match name.as_str() {
            "path" => socketio.path = path(setting)?,
            "pingInterval" => socketio.ping_interval = milliseconds(setting, 25_000)?,
            "pingTimeout" => socketio.ping_timeout = milliseconds(setting, 20_000)?,
            "allowUpgrades" => socketio.allow_upgrades = setting.flag(warnings),
            "clientScript" => {
                socketio.client_script = Some(setting.text()?).filter(|path| !path.is_empty()).map(PathBuf::from);
            }
            "origins" => socketio.origins = texts(setting)?,
            "transports" => {
                let transports = texts(setting)?;
                socketio.polling = transports.iter().any(|transport| transport == "polling");
                socketio.websocket = transports.iter().any(|transport| transport == "websocket");
                if !socketio.polling && !socketio.websocket {
                    return Err(setting
                        .error(format_args!("is {transports:?}; it must name \"websocket\", \"polling\" or both")));
                }
            }
            _ => {}
        }
    }
    Ok(socketio)
}

fn texts(setting: &Setting<'_>) -> Result<Vec<String>, ConfigError> {
    if setting.is_list() { setting.list()?.iter().map(Setting::text).collect() } else { Ok(vec![setting.text()?]) }
}

fn path(setting: &Setting<'_>) -> Result<String, ConfigError> {
    let text = setting.text()?;
    let path = text.trim_matches('/');
    let is_path = path.bytes().all(|byte| byte.is_ascii_graphic()) && !path.contains(['?', '#', '%', '\\']);
    let is_ours = path == "app" || path.starts_with("app/") || path == "apps" || path.starts_with("apps/");
    if path.is_empty() || !is_path || is_ours {
        return Err(setting.wrong("must be a path of its own on this server, as \"/socket.io\""));
    }
    Ok(format!("/{path}"))
}
