//! Writing files so that nobody ever reads half of one.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Writes the file: all of it or nothing. One that is there keeps its mode; a new one gets `mode`,
/// less the umask.
pub fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    // What a link points to is replaced, not the link.
    let target = path.canonicalize();
    let target = target.as_deref().unwrap_or(path);
    let old = fs::metadata(target).ok().map(|old| old.permissions().mode() & 0o777);
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = target.with_file_name(name);
    let written = write_new(&temporary, text, old, mode).and_then(|()| fs::rename(&temporary, target));
    let Err(error) = written else { return Ok(()) };
    let _ = fs::remove_file(&temporary);
    // A single file that is mounted into a container cannot be renamed over, and its folder may be read-only.
    match old {
        Some(_) => OpenOptions::new().write(true).truncate(true).open(target)?.write_all(text.as_bytes()),
        None => Err(error),
    }
}

fn write_new(path: &Path, text: &str, exact: Option<u32>, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(exact.unwrap_or(mode)).open(path)?;
    if let Some(exact) = exact {
        file.set_permissions(fs::Permissions::from_mode(exact))?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_file_keeps_its_mode_and_a_link_its_target() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("a.json"), dir.path().join("l.json"));
        replace(&file, "one", 0o600).unwrap();
        assert_eq!((fs::read_to_string(&file).unwrap().as_str(), mode(&file)), ("one", 0o600));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o664)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        replace(&link, "two", 0o600).unwrap();
        assert_eq!((fs::read_to_string(&file).unwrap().as_str(), mode(&file)), ("two", 0o664));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        // Nothing else is left over.
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn where_nothing_can_be_written_nothing_is() {
        let dir = tempfile::tempdir().unwrap();
        assert!(replace(&dir.path().join("no/a.json"), "x", 0o600).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
