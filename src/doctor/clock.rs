//! Clocks: signed requests carry the time, and count for `limits.timestampWindow` only.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Subject;
use super::finding::Finding;
use crate::tls::x509;

/// A difference that nobody need think about, in seconds: answers take their time, and `Date` has whole seconds.
const HARMLESS_SECONDS: i64 = 15;

/// Milliseconds since 1970 by this machine's clock.
pub(super) fn now_millis() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` as milliseconds since 1970.
pub(super) fn millis_of_date(date: &str) -> Option<i64> {
    let rest = date.split_once(", ")?.1;
    let parts: Vec<&str> = rest.split(' ').collect();
    let [day, month, year, time, "GMT"] = parts[..] else { return None };
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    let (day, year): (i64, i64) = (day.parse().ok()?, year.parse().ok()?);
    let clock: Vec<i64> = time.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [hours, minutes, seconds] = clock[..] else { return None };
    Some(x509::seconds([year, month, day], [hours, minutes, seconds])? * 1000)
}

/// `laravel` and `redis`: how far their clocks are ahead of this one, in milliseconds.
pub(super) fn judge(subject: &Subject, laravel: Option<i64>, redis: Option<i64>) -> Vec<Finding> {
    let window = i64::try_from(subject.config.limits.timestamp_window.as_secs()).unwrap_or(i64::MAX);
    let signs = subject.broadcast().is_some_and(|(_, driver)| matches!(driver.as_str(), "pusher" | "reverb"));
    let judge = |id, whose: &str, ahead: i64| {
        let seconds = ahead / 1000;
        if seconds.abs() <= HARMLESS_SECONDS {
            return Finding::ok(id, format!("{whose} clock and this machine's agree"));
        }
        let how = if seconds > 0 { "ahead of" } else { "behind" };
        let what = format!("{whose} clock is {} s {how} this machine's", seconds.abs());
        let finding = match id == "clock.laravel" && signs && seconds.abs() > window {
            true => Finding::problem(id, what).why(format!(
                "Signed requests count for {window} s (\"limits.timestampWindow\"), so none of Laravel's is taken: 401."
            )),
            false => Finding::warning(id, what)
                .why(format!("Requests that a backend signs count for {window} s (\"limits.timestampWindow\")")),
        };
        finding
            .fix("Let both machines keep their time by NTP:")
            .line("a shell on the machine that is wrong", "timedatectl set-ntp true")
    };
    [("clock.laravel", "Laravel's", laravel), ("clock.redis", "Redis'", redis)]
        .into_iter()
        .filter_map(|(id, whose, ahead)| Some(judge(id, whose, ahead?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Level;
    use super::*;

    #[test]
    fn clocks_that_differ() {
        let levels = |driver: &str, ahead: i64| {
            let subject = Subject::of(json!({}), &[(".env", &format!("BROADCAST_DRIVER={driver}\n"))]);
            judge(&subject, Some(ahead), Some(ahead)).into_iter().map(|finding| finding.level).collect::<Vec<_>>()
        };
        assert_eq!(levels("pusher", -14_000), [Level::Ok, Level::Ok]);
        assert_eq!(levels("pusher", 60_000), [Level::Warning, Level::Warning]);
        // Only what is signed counts for a time.
        assert_eq!(levels("pusher", -700_000), [Level::Problem, Level::Warning]);
        assert_eq!(levels("redis", 700_000), [Level::Warning, Level::Warning]);
        assert_eq!(judge(&Subject::of(json!({}), &[]), None, None), []);
    }

    #[test]
    fn dates_of_http() {
        assert_eq!(millis_of_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777_000));
        assert_eq!(millis_of_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(millis_of_date("Thu, 29 Feb 2024 23:59:59 GMT"), Some(1_709_251_199_000));
        for wrong in [
            "",
            "Sunday",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 99 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 9999999 08:49:37 GMT",
            "Sun, 06 Nov 1994 -8:49:37 GMT",
        ] {
            assert_eq!(millis_of_date(wrong), None, "{wrong}");
        }
    }
}
