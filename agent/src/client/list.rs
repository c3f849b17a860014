//! Listings: every server lists what it owns, the client merges.

use std::collections::BTreeMap;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use zones::Address;

use crate::access::chain;
use crate::client::Client;
use crate::client::counts::Counters;
use crate::client::error::ClientError;
use crate::client::locate::Target;
use crate::client::words::{Page, ProblemText, Summary};

/// Objects in one page.
const PAGE: usize = 1000;
/// Servers asked at once.
const SERVERS_AT_ONCE: usize = 8;
/// How often a page is asked for before the listing fails.
const ATTEMPTS: u32 = 5;

impl Client {
    /// All objects under an address (or all) that this client may see, in order of their addresses.
    ///
    /// An object that moves meanwhile is listed once. It can be missed if it leaves a server that has not been asked yet for
    /// one that has: every server is asked for a second time, as long as this finds more.
    ///
    /// What lies under an address in a part that is delegated is listed by the pool that has it. Parts below the address that are
    /// delegated are not listed: list them by their own addresses.
    ///
    /// # Errors
    ///
    /// [`ClientError`] when a server cannot be asked: a listing with holes would look like a whole one.
    pub async fn list(&self, under: Option<&Address>) -> Result<Vec<Summary>, ClientError> {
        if let Some(under) = under
            && let Some(to) = self.inner.locator.delegation(under).await?
        {
            let other = self.elsewhere(under, &to).await?;
            return Box::pin(other.list(Some(under))).await;
        }
        let mut all: BTreeMap<Address, Summary> = BTreeMap::new();
        let mut before = None;
        for _ in 0..4 {
            let servers = self
                .inner
                .locator
                .servers(true)
                .await
                .map_err(|source| ClientError::Locate {
                    address: under.cloned().unwrap_or_else(|| "1".parse().expect("an address")),
                    source,
                })?;
            if servers.is_empty() {
                return Err(ClientError::NoServer);
            }
            let lists: Vec<Vec<Summary>> = stream::iter(servers)
                .map(|server| self.list_server(server, under))
                .buffer_unordered(SERVERS_AT_ONCE)
                .try_collect()
                .await?;
            for summary in lists.into_iter().flatten() {
                match all.get(&summary.address) {
                    Some(known) if (known.epoch, known.revision) >= (summary.epoch, summary.revision) => {}
                    Some(_) | None => drop(all.insert(summary.address.clone(), summary)),
                }
            }
            if before == Some(all.len()) {
                break;
            }
            before = Some(all.len());
        }
        Ok(all.into_values().collect())
    }

    async fn list_server(&self, server: Target, under: Option<&Address>) -> Result<Vec<Summary>, ClientError> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut query = vec![("limit", PAGE.to_string())];
            query.extend(under.map(|under| ("under", under.to_string())));
            query.extend(after.take().map(|after| ("after", after)));
            let page = self.page(&server, &query).await?;
            all.extend(page.objects);
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(all),
            }
        }
    }

    async fn page(&self, server: &Target, query: &[(&str, String)]) -> Result<Page, ClientError> {
        let mut url =
            reqwest::Url::parse(&format!("https://{}:{}/objects", server.host, server.port)).map_err(|error| {
                ClientError::Answer {
                    server: server.host.to_string(),
                    what: error.to_string(),
                }
            })?;
        url.query_pairs_mut().extend_pairs(query);
        let mut refused = ClientError::NoServer;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                Counters::add(&self.inner.counts.retries);
                tokio::time::sleep(std::time::Duration::from_millis(100 << attempt)).await;
            }
            Counters::add(&self.inner.counts.requests);
            let answer = async {
                let response = self.inner.http.get(url.clone()).send().await?;
                let status = response.status();
                Ok::<_, reqwest::Error>((status, response.bytes().await?))
            };
            let (status, detail) = match tokio::time::timeout(super::request::STALL, answer).await {
                Ok(Ok((status, octets))) if status.is_success() => {
                    return serde_json::from_slice(&octets).map_err(|error| ClientError::Answer {
                        server: server.host.to_string(),
                        what: error.to_string(),
                    });
                }
                Ok(Ok((status, octets))) => {
                    let problem: ProblemText = serde_json::from_slice(&octets).unwrap_or_default();
                    (status.as_u16(), problem.detail.unwrap_or_else(|| status.to_string()))
                }
                Ok(Err(error)) => (0, chain(&error)),
                Err(_) => (0, "the listing stands still".to_owned()),
            };
            let again = status == 0 || status == 503;
            refused = ClientError::Refused {
                server: server.host.to_string(),
                status,
                detail,
            };
            if !again {
                break;
            }
        }
        Err(refused)
    }
}
