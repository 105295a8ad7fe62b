//! What a store says of itself, so that it is never written in two ways.

use crate::error::{Error, Result};
use crate::split::Separator;
use crate::store::{self, ErrorKind, Key, PutMode, Store};
use serde::{Deserialize, Serialize};

/// How a store keeps traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Blobs and indexes.
    Loose,
    /// Two tables in Parquet.
    Packed,
}

impl Layout {
    /// What a new store becomes if nobody says otherwise.
    pub const DEFAULT: Self = Self::Loose;

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loose => "loose",
            Self::Packed => "packed",
        }
    }
}

/// The object `gravity.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Version of the layout's format.
    pub format: u32,
    /// How traces are kept.
    pub layout: Layout,
    /// What parts are cut at: one trace cannot be cut in two ways.
    pub separator: String,
}

/// The version that this program reads and writes.
const FORMAT: u32 = 1;

impl Marker {
    /// Its name: where there is a store, it is there.
    pub fn key() -> Key {
        Key::listed("gravity.json")
    }

    /// Reads a store's marker; `None` for a store that Gravity has not written to.
    pub async fn read(store: &dyn Store) -> Result<Option<Self>> {
        let Some((bytes, _)) = store.read(&Self::key()).await? else { return Ok(None) };
        let corrupt = |reason: String| Error::Corrupt { key: "gravity.json".into(), reason };
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let Version { format } = serde_json::from_slice(&bytes).map_err(|e| corrupt(e.to_string()))?;
        if format != FORMAT {
            let reason = format!("the store has format {format}, this gravity knows {FORMAT}: use another release");
            return Err(Error::Config(format!("{}: {reason}", store.location())));
        }
        serde_json::from_slice(&bytes).map(Some).map_err(|e| corrupt(e.to_string()))
    }

    /// Reads the marker of a store that must be there.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none.
    pub async fn expect(store: &dyn Store) -> Result<Self> {
        let none = || Error::NotFound(format!("{}: there is no store (no gravity.json)", store.location()));
        Self::read(store).await?.ok_or_else(none)
    }

    /// The layout of a store; [`Layout::Loose`] for one that Gravity has not written to.
    pub async fn layout_of(store: &dyn Store) -> Result<Layout> {
        Ok(Self::read(store).await?.map_or(Layout::Loose, |marker| marker.layout))
    }

    /// Passes if the store is packed.
    ///
    /// # Errors
    /// [`Error::Config`] with what `instead` says, if it is loose; [`Error::NotFound`] if there is no store.
    pub async fn expect_packed(store: &dyn Store, instead: &str) -> Result<()> {
        match Self::expect(store).await?.layout {
            Layout::Packed => Ok(()),
            Layout::Loose => Err(Error::Config(format!("{}: this store is loose; {instead}", store.location()))),
        }
    }

    /// Makes sure that the store is, or becomes, one of this layout (its own, if none is asked for) and cut at this
    /// separator.
    ///
    /// # Errors
    /// [`Error::Config`] if the store says otherwise.
    pub async fn claim(store: &dyn Store, layout: Option<Layout>, separator: &Separator) -> Result<Layout> {
        let new = layout.unwrap_or(Layout::DEFAULT);
        let wanted = Self { format: FORMAT, layout: new, separator: separator.as_str().into() };
        let mut found = Self::read(store).await?;
        if found.is_none() {
            let bytes = serde_json::to_vec(&wanted).map_err(|e| Error::Config(e.to_string()))?;
            match store.put(&Self::key(), bytes.into(), PutMode::IfAbsent).await {
                Ok(_) => return Ok(new),
                // Another one was quicker.
                Err(store::Error { kind: ErrorKind::Precondition, .. }) => found = Self::read(store).await?,
                Err(e) => return Err(e.into()),
            }
        }
        match found {
            Some(found) if layout.is_some_and(|layout| layout != found.layout) => Err(Error::Config(format!(
                "{}: this store is {}, --layout (GRAVITY_LAYOUT) says {}; a store keeps its layout, so use another prefix or folder, or leave it out",
                store.location(),
                found.layout.name(),
                new.name(),
            ))),
            Some(found) if found.separator == wanted.separator => Ok(found.layout),
            Some(found) => Err(Error::Config(format!(
                "{}: this store cuts content at {:?}, CHUNK_SEPARATOR is {:?}; a store keeps its separator",
                store.location(),
                found.separator,
                wanted.separator,
            ))),
            None => Err(Error::Corrupt { key: "gravity.json".into(), reason: "it is there and cannot be read".into() }),
        }
    }
}
