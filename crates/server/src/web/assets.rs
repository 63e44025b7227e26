//! The page's own files, in the binary. Each is served under a name that holds its hash, so a
//! browser may keep it for ever and never shows a new page with an old style.

use std::sync::LazyLock;

use sha2::Digest;

/// A file of the page.
pub struct Asset {
    path: String,
    pub media_type: &'static str,
    pub body: &'static str,
}

impl Asset {
    fn new(extension: &str, media_type: &'static str, body: &'static str) -> Self {
        let digest = fota_proto::Sha256(sha2::Sha256::digest(body).into());
        Self {
            path: format!("/assets/{}.{extension}", digest.short()),
            media_type,
            body,
        }
    }

    /// Where it is served, e.g. `/assets/1f2e3d4c.css`.
    pub fn path(&self) -> &str {
        &self.path
    }
}

static ALL: LazyLock<[Asset; 3]> = LazyLock::new(|| {
    [
        Asset::new(
            "css",
            "text/css; charset=utf-8",
            include_str!("assets/style.css"),
        ),
        Asset::new(
            "js",
            "text/javascript; charset=utf-8",
            include_str!("assets/page.js"),
        ),
        Asset::new("svg", "image/svg+xml", include_str!("assets/icon.svg")),
    ]
});

/// The stylesheet.
pub fn style() -> &'static Asset {
    &ALL[0]
}

/// The script.
pub fn script() -> &'static Asset {
    &ALL[1]
}

/// The icon in the browser's tab.
pub fn icon() -> &'static Asset {
    &ALL[2]
}

/// The file of this name, without the folder.
pub fn named(name: &str) -> Option<&'static Asset> {
    ALL.iter()
        .find(|asset| asset.path.strip_prefix("/assets/") == Some(name))
}
