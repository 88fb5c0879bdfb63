//! `resume`: what is kept for browsers whose connection was lost.

use std::time::Duration;

use super::error::ConfigError;
use super::json::Setting;
use super::known::warn_of_unknown;
use super::{Resume, file};
use crate::protocol::resume::{Mode, Modes, SameSite};

/// An object, or a flag.
pub(super) fn read(setting: &Setting<'_>, warnings: &mut Vec<String>) -> Result<Option<Resume>, ConfigError> {
    let mut resume = Resume::default();
    if !setting.is_object() {
        return Ok(setting.flag(warnings).then_some(resume));
    }
    let members = setting.object()?;
    warn_of_unknown(&members, warnings);
    let number = |name, default: u64, range, unit| file::number(&file::member(&members, name), default, range, unit);
    resume.time = Duration::from_secs(number("seconds", resume.time.as_secs(), 1..=3600, "of seconds")?);
    let events = number("eventsPerChannel", resume.events_per_channel as u64, 1..=1_000_000, "of events")?;
    resume.events_per_channel = events as usize;
    resume.bytes = number("bytes", resume.bytes as u64, 65_536..=1 << 40, "of bytes")? as usize;
    if let Some(site) = file::member(&members, "sameSite") {
        resume.same_site = match site.text()?.as_str() {
            "lax" => SameSite::Lax,
            "none" => SameSite::None,
            _ => return Err(site.wrong("must be \"lax\" or \"none\"")),
        };
    }
    if let Some(channels) = file::member(&members, "channels") {
        let patterns = channels.object()?.into_iter().map(|(pattern, mode)| {
            let mode = match mode.text()?.as_str() {
                "at-least-once" => Mode::AtLeastOnce,
                "at-most-once" => Mode::AtMostOnce,
                "off" => Mode::Off,
                _ => return Err(mode.wrong("must be \"at-least-once\", \"at-most-once\" or \"off\"")),
            };
            Ok((pattern, mode))
        });
        resume.modes = Modes::new(patterns.collect::<Result<_, _>>()?);
    }
    Ok(Some(resume))
}
