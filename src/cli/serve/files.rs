//! The files of a page. They are listed when the server starts, and nothing but what is in the list is ever
//! opened: no path that a browser sends is joined to a folder.

use cusae::error::{Error, Result};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Folders in folders that are looked into.
const DEPTH: usize = 4;

/// A folder's files by their address.
pub struct Files {
    root: PathBuf,
    by_address: BTreeMap<String, PathBuf>,
}

impl Files {
    /// Lists a folder. Links and hidden files are left out. Error: it cannot be read.
    pub fn of(folder: &Path) -> Result<Self> {
        let root = folder.canonicalize().map_err(Error::io(folder, "open"))?;
        let mut files = Files { root: root.clone(), by_address: BTreeMap::new() };
        files.list(&root, "", DEPTH)?;
        Ok(files)
    }

    fn list(&mut self, folder: &Path, address: &str, depth: usize) -> Result<()> {
        for entry in fs::read_dir(folder).map_err(Error::io(folder, "list"))? {
            let entry = entry.map_err(Error::io(folder, "list"))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // Of the entry itself, not of what a link points to.
            let kind = entry.file_type().map_err(Error::io(entry.path(), "read"))?;
            let address = format!("{address}/{name}");
            if name.starts_with('.') {
                continue;
            } else if kind.is_dir() && depth > 0 {
                self.list(&entry.path(), &address, depth - 1)?;
            } else if kind.is_file() {
                self.by_address.insert(address, entry.path());
            }
        }
        Ok(())
    }

    /// A file by its address, with its length and type; `/` is `/index.html`. None if it was not there at
    /// the start, or has become a link since.
    pub fn open(&self, address: &str) -> Option<(File, u64, &'static str)> {
        let address = if address == "/" { "/index.html" } else { address };
        let path = self.by_address.get(address)?;
        let unmoved = path.canonicalize().is_ok_and(|real| real == *path && real.starts_with(&self.root));
        let file = unmoved.then(|| File::open(path).ok()).flatten()?;
        let length = file.metadata().ok().filter(|it| it.is_file())?.len();
        let content_type = match path.extension().and_then(|it| it.to_str()) {
            Some("html") => "text/html; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            _ => "application/octet-stream",
        };
        Some((file, length, content_type))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_listed_is_opened() {
        let parent = tempfile::tempdir().unwrap();
        let page = parent.path().join("page");
        fs::create_dir_all(page.join("data")).unwrap();
        for (name, text) in
            [("secret.js", "no"), ("page/index.html", "home"), ("page/data/a.js", "a"), ("page/.hidden", "no")]
        {
            fs::write(parent.path().join(name), text).unwrap();
        }
        std::os::unix::fs::symlink(parent.path().join("secret.js"), page.join("link.js")).unwrap();
        std::os::unix::fs::symlink(parent.path(), page.join("up")).unwrap();
        let files = Files::of(&page).unwrap();
        let length = |address: &str| files.open(address).map(|(_, length, _)| length);
        assert_eq!((length("/"), length("/index.html"), length("/data/a.js")), (Some(4), Some(4), Some(1)));
        for address in [
            "/../secret.js",
            "/data/../../secret.js",
            "/%2e%2e/secret.js",
            "/..%2fsecret.js",
            "//secret.js",
            "/link.js",
            "/up/secret.js",
            "/.hidden",
            "/data",
            "/data/",
            "/index.html/",
            "",
        ] {
            assert_eq!(length(address), None, "{address}");
        }
        // A file that becomes a link after the start.
        fs::remove_file(page.join("data/a.js")).unwrap();
        std::os::unix::fs::symlink(parent.path().join("secret.js"), page.join("data/a.js")).unwrap();
        assert_eq!(length("/data/a.js"), None);
        // A folder that does.
        fs::rename(page.join("data"), page.join("old")).unwrap();
        std::os::unix::fs::symlink(parent.path(), page.join("data")).unwrap();
        assert_eq!(length("/data/a.js"), None);
    }
}
