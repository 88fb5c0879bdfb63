//! `metrics` and `logFormat`: what operators read.

use std::net::IpAddr;

use super::error::ConfigError;
use super::file::member;
use super::json::Setting;
use super::known::warn_of_unknown;
use super::{LogFormat, MetricsAccess, Secret};

/// A token that can be guessed protects nothing.
const TOKEN_BYTES_MIN: usize = 16;

/// `metrics`: an object, or a flag. `None`: nobody may read them.
pub(super) fn read_metrics(
    setting: Option<Setting<'_>>,
    token: Option<Setting<'_>>,
    warnings: &mut Vec<String>,
) -> Result<Option<MetricsAccess>, ConfigError> {
    let members = match setting {
        Some(setting) if setting.is_object() => setting.object()?,
        Some(setting) if !setting.flag(warnings) => return Ok(None),
        _ => Vec::new(),
    };
    warn_of_unknown(&members, warnings);
    let token = token.or_else(|| member(&members, "token"));
    let token = token.map(|setting| {
        let token = setting.text()?;
        if token.len() < TOKEN_BYTES_MIN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(setting.wrong(format_args!(
                "must be at least {TOKEN_BYTES_MIN} letters, digits and signs, without spaces; `openssl rand -hex 32` makes one"
            )));
        }
        Ok(Secret::new(token))
    });
    let port = member(&members, "port").map(|setting| {
        setting.whole(0..=65_535, "must be a TCP port from 1 to 65535 of its own, as 9601 (or 0 for any free one)")
    });
    let host = member(&members, "host").map(|setting| {
        let host = setting.text()?;
        host.parse::<IpAddr>()
            .map_err(|_| setting.wrong("must be an address of this machine, as \"127.0.0.1\" or \"0.0.0.0\""))
    });
    let host = host.transpose()?;
    let listen = port.transpose()?.map(|port| (host.unwrap_or([127, 0, 0, 1].into()), port as u16).into());
    if let (Some(_), None) = (host, listen)
        && let Some(setting) = member(&members, "host")
    {
        warnings.push(setting.odd("it is used together with \"port\" only"));
    }
    Ok(Some(MetricsAccess { token: token.transpose()?, listen }))
}

/// `logFormat`.
pub(super) fn read_log_format(setting: &Setting<'_>) -> Result<LogFormat, ConfigError> {
    setting.text()?.parse().map_err(|()| setting.wrong("must be \"auto\", \"text\" or \"json\""))
}
