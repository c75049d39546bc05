//! The QR codes on the pages of our invitations. Each is drawn once and kept, and one is drawn at a time, so that
//! repeated requests cost no work.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::Mutex;

use crate::agent::protocol::out_of_band::qr_svg;

/// The most pictures that are kept. One has at most some 500 KB.
const MAX_KEPT: usize = 16;

/// The pictures by their texts. `None` for a text that is too long for a picture.
#[derive(Default)]
pub struct QrCodes(Mutex<HashMap<String, Option<Arc<str>>>>);

impl QrCodes {
    /// Returns the QR code of a text as an SVG element. `None` if the text is too long.
    pub async fn svg(&self, text: &str) -> Option<Arc<str>> {
        let mut kept = self.0.lock().await;
        if let Some(svg) = kept.get(text) {
            return svg.clone();
        }
        let to_draw = text.to_owned();
        let drawn = tokio::task::spawn_blocking(move || qr_svg(&to_draw).ok()).await.ok().flatten();
        // Within a page, SVG has no XML declaration.
        let svg = drawn.map(|svg| Arc::from(svg.split_once("?>").map_or(svg.as_str(), |(_, element)| element)));
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(text.to_owned(), svg.clone());
        svg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pictures_are_kept_within_a_bound() {
        let codes = QrCodes::default();
        let first = codes.svg("https://example.com/0").await.unwrap();
        assert!(first.trim_start().starts_with("<svg"), "{}", &first[..100]);
        assert!(Arc::ptr_eq(&first, &codes.svg("https://example.com/0").await.unwrap()));
        assert!(codes.svg(&"x".repeat(5000)).await.is_none());
        for number in 1..100 {
            assert!(codes.svg(&format!("https://example.com/{number}")).await.is_some());
            assert!(codes.0.lock().await.len() <= MAX_KEPT);
        }
    }
}
