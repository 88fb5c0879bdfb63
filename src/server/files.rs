//! Notices that files have changed, by looking at them: what editors, deployments and certificate renewals do
//! (writing in parts, renaming over, exchanging a link) all ends in another stamp, and then stays so.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What tells one state of a file from another, links followed; `None`: there is none.
type Stamp = Option<[i64; 7]>;

/// Some files, and how they were.
#[derive(Clone, Debug, Default)]
pub struct Files {
    known: Vec<(PathBuf, Stamp)>,
    /// Other stamps than the known ones, which may be only half of a change.
    unsettled: Option<Vec<Stamp>>,
}

impl Files {
    /// These, as they are now. Those that were looked at before are compared with how they were then.
    pub fn follow(&mut self, mut paths: Vec<PathBuf>) {
        paths.sort();
        paths.dedup();
        let stamp_of = |path: &PathBuf| self.known.iter().find(|(known, _)| known == path).map(|(_, stamp)| *stamp);
        let known = paths.into_iter().map(|path| (stamp_of(&path).unwrap_or_else(|| stamp(&path)), path));
        self.known = known.map(|(stamp, path)| (path, stamp)).collect();
        self.unsettled = None;
    }

    /// Takes them as they are now for known; before they are read, so that what changes meanwhile is noticed.
    pub fn are_read(&mut self) {
        for (path, known) in &mut self.known {
            *known = stamp(path);
        }
        self.unsettled = None;
    }

    /// Looks at them; true once for each change, when it has been the same twice.
    pub fn have_changed(&mut self) -> bool {
        let now: Vec<Stamp> = self.known.iter().map(|(path, _)| stamp(path)).collect();
        if now.iter().eq(self.known.iter().map(|(_, known)| known)) {
            self.unsettled = None;
            return false;
        }
        let is_settled = self.unsettled.as_ref() == Some(&now);
        self.unsettled = Some(now);
        if is_settled {
            self.are_read();
        }
        is_settled
    }
}

fn stamp(path: &Path) -> Stamp {
    let file = fs::metadata(path).ok()?;
    let (device, inode) = (file.dev() as i64, file.ino() as i64);
    Some([device, inode, file.len() as i64, file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it is looked until a change is told of, at most five times.
    fn looks(files: &mut Files) -> Option<usize> {
        (1..=5).find(|_| files.have_changed())
    }

    #[test]
    fn a_change_is_told_of_once_and_when_it_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("a.json"), dir.path().join("b.pem"));
        fs::write(&path, "1").unwrap();
        let mut files = Files::default();
        files.follow(vec![path.clone(), other.clone(), path.clone()]);
        assert_eq!(looks(&mut files), None);

        // Written in parts, as some editors do.
        fs::write(&path, "").unwrap();
        assert!(!files.have_changed());
        fs::write(&path, "12").unwrap();
        assert!(!files.have_changed());
        assert!(files.have_changed());
        assert_eq!(looks(&mut files), None);

        // Renamed over, with the length and time that it had.
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        let new = dir.path().join("new");
        fs::write(&new, "34").unwrap();
        fs::File::open(&new).unwrap().set_modified(time).unwrap();
        fs::rename(&new, &path).unwrap();
        assert_eq!(looks(&mut files), Some(2));

        // One that comes, and one that goes.
        fs::write(&other, "x").unwrap();
        assert_eq!(looks(&mut files), Some(2));
        fs::remove_file(&other).unwrap();
        assert_eq!(looks(&mut files), Some(2));

        // A link that is exchanged, as container platforms do.
        fs::remove_file(&path).unwrap();
        fs::write(dir.path().join("v1"), "v").unwrap();
        fs::write(dir.path().join("v2"), "v").unwrap();
        std::os::unix::fs::symlink("v1", &path).unwrap();
        assert_eq!(looks(&mut files), Some(2));
        std::os::unix::fs::symlink("v2", dir.path().join("link")).unwrap();
        fs::rename(dir.path().join("link"), &path).unwrap();
        assert_eq!(looks(&mut files), Some(2));

        // What is read anyway is no news.
        fs::write(&path, "5").unwrap();
        files.are_read();
        assert_eq!(looks(&mut files), None);
        // What changed while the list of files did is still news.
        fs::write(&path, "67").unwrap();
        files.follow(vec![path]);
        assert_eq!(looks(&mut files), Some(2));
    }
}
