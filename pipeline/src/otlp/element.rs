//! What a resource says of the records that it stands with.

use super::any::Any;
use super::model::KeyValue;
use std::sync::{Arc, Mutex, PoisonError};

/// The resource attributes that name a tenant, the stronger first.
const TENANT_KEYS: [&str; 4] = ["tenant.id", "tenant_id", "tenant", "service.namespace"];

/// What a resource says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resource {
    /// `service.name`.
    pub service: Option<String>,
    /// The tenant.
    pub tenant: Option<String>,
}

impl Resource {
    /// What these attributes say, as far as it is text. Of several with one key the last counts.
    pub(super) fn new(attributes: &[KeyValue<'_>]) -> Self {
        let value =
            |key: &str| attributes.iter().rev().find(|pair| *pair.key == *key.as_bytes()).map(|pair| &pair.value);
        let text = |value: &Any<'_>| match value {
            Any::String(text) => std::str::from_utf8(text).ok().map(str::to_owned),
            _ => None,
        };
        Self {
            service: value("service.name").and_then(text),
            tenant: TENANT_KEYS.iter().find_map(|key| value(key)).and_then(text),
        }
    }
}

/// An element of `resourceSpans` or `resourceLogs`. Its resource may stand behind its records (newer collectors write
/// protobuf so), so each record has the element, which is told what it says when that is read.
#[derive(Debug, Clone, Default)]
pub struct Element(Arc<Mutex<Option<Resource>>>);

impl Element {
    /// What its resource says; `None` as long as it may still come.
    pub fn resource(&self) -> Option<Resource> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// True if both are the same element.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Its resource was read. Where it has a second one, nobody can tell whose the records are.
    pub(super) fn tell(&self, resource: Resource) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some(if known.is_some() { Resource::default() } else { resource });
    }

    /// It ends: no resource comes any more.
    pub(super) fn end(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default();
    }
}
