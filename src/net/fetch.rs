//! Fetches documents for the module `did`.

use std::time::Duration;

use async_trait::async_trait;

use super::{error::NetError, http::HttpClient, request_limits::RequestLimits, target::Target};
use crate::did::{Fetch, FetchError, FetchResponse};

/// The time limit for a document. It is short, because documents are small and callers wait for them.
const TIMEOUT: Duration = Duration::from_secs(10);

#[async_trait]
impl Fetch for HttpClient {
    async fn fetch(&self, url: &str, accept: &str, limit: usize) -> Result<FetchResponse, FetchError> {
        let fetched = async {
            let target = Target::http(url)?;
            let plain =
                url.strip_prefix("https").filter(|_| self.allows_plain_http(&target)).map(|rest| format!("http{rest}"));
            let limits = RequestLimits { timeout: TIMEOUT, max_response_bytes: limit };
            let response = self.get(plain.as_deref().unwrap_or(url), accept, limits).await?;
            // Only a response with status 200 has a document.
            let body = if response.status == 200 { response.body?.to_vec() } else { Vec::new() };
            Ok(FetchResponse { status: response.status, body })
        };
        fetched.await.map_err(|error: NetError| {
            // Something larger than any document is a page that the server shows instead of it, perhaps for a moment.
            let may_pass = error.is_retryable() || matches!(error, NetError::TooLarge { .. });
            FetchError::new(may_pass, error)
        })
    }
}
