//! A queue of SQS, or of what speaks its protocol.

use super::held::Receipt;
use crate::aws;
use crate::retry::{Budget, Policy};
use crate::store::{Error, Result};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::Region;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{ChangeMessageVisibilityBatchRequestEntry, MessageSystemAttributeName, QueueAttributeName};
use futures::future;
use std::time::{Duration, SystemTime};

/// Where the queue is. Credentials come from the same chain as the store's.
#[derive(Debug, Clone)]
pub struct QueueSettings {
    /// The queue's URL. Gravity does not create it.
    pub url: String,
    /// Another address of the server than the URL's own.
    pub endpoint: Option<String>,
    /// The region where the URL does not tell it; otherwise `AWS_REGION` or the profile's.
    pub region: Option<String>,
    /// How long a message in hand stays invisible to others after the last sign of life.
    pub visibility: Duration,
}

/// A client of one queue.
pub struct Sqs {
    client: Client,
    url: String,
    /// Whole seconds: the queue knows no other time.
    visibility: i32,
}

/// A message as it was received.
#[derive(Debug, Clone)]
pub struct Received {
    /// Its id: the same each time it is received.
    pub id: String,
    /// What to delete, keep or release it by: another one each time it is received.
    pub receipt: Receipt,
    /// What it says.
    pub body: String,
    /// How often it has been received, this time included.
    pub receives: u32,
    /// When it was sent.
    pub sent: Option<SystemTime>,
}

/// How many messages there are, as nearly as the queue knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// Waiting to be received.
    pub visible: u64,
    /// Received by some worker, and neither deleted nor given back.
    pub in_flight: u64,
    /// Not to be received yet.
    pub delayed: u64,
}

/// How long a request for messages waits for the first one: the longest that SQS allows, since each request is paid.
const LONG_POLL: Duration = Duration::from_secs(20);
/// Messages in one request: what SQS allows.
pub const MOST: usize = 10;

impl Sqs {
    /// A client for that queue. Nothing is sent yet.
    pub async fn open(settings: &QueueSettings) -> Self {
        let region = region_of(&settings.url).map(str::to_owned).or(settings.region.clone());
        // AWS_ENDPOINT_URL is the store's: a queue is where its own URL says.
        let endpoint = settings.endpoint.as_deref().unwrap_or_else(|| origin(&settings.url));
        let shared = aws::config(region, Some(endpoint), aws::TIMEOUT).await;
        let mut config = aws_sdk_sqs::config::Builder::from(&shared);
        if shared.region().is_none() {
            config = config.region(Region::new("us-east-1"));
        }
        Self {
            client: Client::from_conf(config.build()),
            url: settings.url.clone(),
            visibility: seconds(settings.visibility),
        }
    }

    /// The queue's URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Up to `most` messages (10 at most); waits up to 20 seconds for the first. This is not retried.
    pub async fn receive(&self, most: usize) -> Result<Vec<Received>> {
        let answer = self
            .client
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(i32::try_from(most.clamp(1, MOST)).unwrap_or(1))
            .wait_time_seconds(seconds(LONG_POLL))
            .visibility_timeout(self.visibility)
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
            .send()
            .await
            .map_err(|e| self.error("receive from", &e))?;
        let messages = answer.messages.unwrap_or_default().into_iter();
        Ok(messages.filter_map(received).collect())
    }

    /// Deletes a message.
    pub async fn delete(&self, receipt: &Receipt) -> Result<()> {
        self.retry(|| async {
            let request = self.client.delete_message().queue_url(&self.url).receipt_handle(&receipt.0);
            request.send().await.map(|_| ()).map_err(|e| self.error("delete a message from", &e))
        })
        .await
    }

    /// Lets a message be received again, by anybody, after this pause.
    pub async fn release(&self, receipt: &Receipt, pause: Duration) -> Result<()> {
        self.retry(|| async {
            let request = self.client.change_message_visibility().queue_url(&self.url).receipt_handle(&receipt.0);
            let request = request.visibility_timeout(seconds(pause));
            request.send().await.map(|_| ()).map_err(|e| self.error("give a message back to", &e))
        })
        .await
    }

    /// Keeps messages invisible to others for the visibility time from now.
    pub async fn keep(&self, receipts: &[Receipt]) -> Result<()> {
        self.set_visibility(receipts, self.visibility, "keep messages of").await
    }

    /// Lets messages be received again, by anybody, at once.
    pub async fn release_all(&self, receipts: &[Receipt]) -> Result<()> {
        self.set_visibility(receipts, 0, "give messages back to").await
    }

    async fn set_visibility(&self, receipts: &[Receipt], seconds: i32, operation: &'static str) -> Result<()> {
        let requests = receipts.chunks(MOST).map(|some| async move {
            let entries = some.iter().enumerate().filter_map(|(n, receipt)| {
                let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(n.to_string());
                entry.receipt_handle(&receipt.0).visibility_timeout(seconds).build().ok()
            });
            let entries: Vec<_> = entries.collect();
            let request = || {
                let request = self.client.change_message_visibility_batch().queue_url(&self.url);
                let sent = request.set_entries(Some(entries.clone())).send();
                async { sent.await.map_err(|e| self.error(operation, &e)) }
            };
            for failed in self.retry(request).await?.failed {
                // Most likely it was settled in the same moment; if not, it only comes again.
                tracing::debug!(code = failed.code, message = failed.message, "{operation} the queue: one failed");
            }
            Ok(())
        });
        future::try_join_all(requests).await.map(|_| ())
    }

    /// How many messages there are.
    pub async fn depth(&self) -> Result<Depth> {
        let names = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
            QueueAttributeName::ApproximateNumberOfMessagesDelayed,
        ];
        let answer = self
            .retry(|| async {
                let request = self.client.get_queue_attributes().queue_url(&self.url);
                let request = request.set_attribute_names(Some(names.to_vec()));
                request.send().await.map_err(|e| self.error("look at", &e))
            })
            .await?;
        let attributes = answer.attributes.unwrap_or_default();
        let [visible, in_flight, delayed] =
            names.map(|name| attributes.get(&name).and_then(|n| n.parse().ok()).unwrap_or(0));
        Ok(Depth { visible, in_flight, delayed })
    }

    async fn retry<T, F: Future<Output = Result<T>>>(&self, attempt: impl FnMut() -> F) -> Result<T> {
        Budget::new(POLICY).retry(Error::is_transient, attempt).await
    }

    fn error<E>(&self, operation: &'static str, error: &SdkError<E>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let (kind, message) = aws::explain(error);
        Error { kind, operation, target: self.url.clone(), message }
    }
}

/// Shorter than the store's: a message that could not be deleted or kept comes again, and costs a look at the ledger.
const POLICY: Policy = Policy {
    initial: Duration::from_millis(100),
    max_interval: Duration::from_secs(2),
    max_elapsed: Duration::from_secs(10),
    jitter: 0.5,
};

fn received(message: aws_sdk_sqs::types::Message) -> Option<Received> {
    let attributes = message.attributes.unwrap_or_default();
    let attribute = |name| attributes.get(&name).and_then(|value| value.parse().ok());
    Some(Received {
        id: message.message_id?,
        receipt: Receipt(message.receipt_handle?),
        body: message.body.unwrap_or_default(),
        receives: attribute(MessageSystemAttributeName::ApproximateReceiveCount)
            .and_then(|count: u64| u32::try_from(count).ok())
            .unwrap_or(1),
        sent: attribute(MessageSystemAttributeName::SentTimestamp)
            .and_then(|millis| SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))),
    })
}

/// Whole seconds, rounded up, up to the 12 hours that SQS allows.
fn seconds(time: Duration) -> i32 {
    i32::try_from(time.as_millis().div_ceil(1000)).unwrap_or(i32::MAX).min(12 * 60 * 60)
}

/// `https://host:port` of a URL.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    url[host..].find('/').map_or(url, |end| &url[..host + end])
}

/// `eu-central-1` of `https://sqs.eu-central-1.amazonaws.com/...`.
fn region_of(url: &str) -> Option<&str> {
    let host = origin(url);
    let host = host.find("://").map_or(host, |at| &host[at + 3..]);
    let is_aws = host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn");
    let mut labels = host.split('.');
    labels.find(|label| *label == "sqs" || *label == "sqs-fips");
    labels.next().filter(|_| is_aws)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_where_its_url_says() {
        for (url, at, region) in [
            ("https://sqs.eu-central-1.amazonaws.com/1/q", "https://sqs.eu-central-1.amazonaws.com", "eu-central-1"),
            ("https://sqs.cn-north-1.amazonaws.com.cn/1/q", "https://sqs.cn-north-1.amazonaws.com.cn", "cn-north-1"),
            (
                "https://vpce-1.sqs.us-east-2.vpce.amazonaws.com/1/q",
                "https://vpce-1.sqs.us-east-2.vpce.amazonaws.com",
                "us-east-2",
            ),
            ("http://127.0.0.1:4566/000000000000/q", "http://127.0.0.1:4566", ""),
            ("http://sqs.local:4566/000000000000/q", "http://sqs.local:4566", ""),
        ] {
            assert_eq!((origin(url), region_of(url).unwrap_or_default()), (at, region));
        }
    }

    #[test]
    fn times_are_whole_seconds_rounded_up() {
        let millis = Duration::from_millis;
        assert_eq!([millis(0), millis(1), millis(1000), millis(1001)].map(seconds), [0, 1, 1, 2]);
        assert_eq!(seconds(Duration::MAX), 43_200);
    }
}
