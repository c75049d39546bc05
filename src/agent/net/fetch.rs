//! What `did` asks of the network.

use std::time::Duration;

use async_trait::async_trait;

use super::{HttpClient, Limits, NetError, Target};
use crate::did::{Fetch, FetchError, Fetched};

/// A document is small, and somebody waits for it.
const WITHIN: Duration = Duration::from_secs(10);

#[async_trait]
impl Fetch for HttpClient {
    async fn fetch(&self, url: &str, accept: &str, limit: usize) -> Result<Fetched, FetchError> {
        let found = async {
            let target = Target::http(url)?;
            let plain = url.strip_prefix("https").filter(|_| self.is_plain(&target)).map(|rest| format!("http{rest}"));
            let limits = Limits { within: WITHIN, answer: limit };
            let answer = self.get(plain.as_deref().unwrap_or(url), accept, limits).await?;
            // The body of what is no document does not matter.
            let body = if answer.status == 200 { answer.body?.to_vec() } else { Vec::new() };
            Ok(Fetched { status: answer.status, body })
        };
        found.await.map_err(|error: NetError| FetchError::new(error.passes(), error))
    }
}
