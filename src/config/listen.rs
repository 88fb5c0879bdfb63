//! Where the server listens beside its port, and whose word counts about who connects.

use super::UnixSocket;
use super::error::ConfigError;
use super::json::Setting;
use crate::address::{Network, TrustedProxies};

/// `socket`, a path, with the permissions of `socketMode` in octal digits.
pub(super) fn socket(
    path: Option<Setting<'_>>,
    mode: Option<Setting<'_>>,
    is_alone: bool,
) -> Result<Option<UnixSocket>, ConfigError> {
    // The kernel keeps no more of a name.
    const BYTES_MAX: usize = 107;
    let Some(setting) = path else {
        return mode.map_or(Ok(None), |mode| Err(mode.error("is for \"socket\", which is not set")));
    };
    let path = setting.text()?;
    if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') || path.len() > BYTES_MAX {
        let must =
            format!("must be an absolute path of up to {BYTES_MAX} bytes, as \"/run/laravel-echo-server/echo.sock\"");
        return Err(setting.wrong(must));
    }
    let mode = match mode {
        None => 0o660,
        Some(mode) => {
            let text = mode.text()?;
            let is_octal = text.len() <= 4 && text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
            let wrong = || mode.wrong("must be permissions as a text of octal digits, as \"0660\"");
            let bits = u32::from_str_radix(&text, 8).ok().filter(|bits| is_octal && *bits <= 0o777);
            bits.ok_or_else(wrong)?
        }
    };
    Ok(Some(UnixSocket { path: path.into(), mode, is_alone }))
}

/// `trustedProxies`: a list of addresses and networks, or one as a text. An empty list trusts nobody.
pub(super) fn trusted_proxies(
    setting: &Setting<'_>,
    warnings: &mut Vec<String>,
) -> Result<TrustedProxies, ConfigError> {
    let mut one = |setting: &Setting<'_>| {
        let must = "must be an address or a network, as \"10.0.0.7\", \"10.0.0.0/8\" or \"2001:db8::/32\"";
        let network: Network = setting.text()?.trim().parse().map_err(|()| setting.wrong(must))?;
        if network.is_everybody() {
            warnings.push(setting.odd(
                "these are all addresses, so whoever can connect can say that it has any other one. Name those of your \
                 proxies, or close this port to everybody else",
            ));
        }
        Ok(network)
    };
    let networks = if setting.is_list() {
        setting.list()?.iter().map(one).collect::<Result<_, _>>()?
    } else {
        vec![one(setting)?]
    };
    Ok(TrustedProxies::new(networks))
}
