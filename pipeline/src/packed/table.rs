//! The nodes that this process knows, and the pack that new ones go into.

use super::known::Known;
use super::lift::{Literal, Nodes};
use super::node::{Kind, Node, NodeKey};
use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// A node, as this process names it: which pack, in the order in which this process came to know them, and which of its
/// nodes. The number that is stored is known once the pack is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeRef {
    /// The pack.
    pub pack: u32,
    /// The node in it.
    pub row: u32,
}

/// Nodes of one file at most: their numbers have 21 bits. A pack with more of them goes into several files, of consecutive
/// numbers.
pub const PACK_NODES: u32 = 1 << 21;

/// The number of a pack: the millisecond since 1970 in which it was made. No two packs of a store have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackNumber(pub u64);

impl PackNumber {
    /// The last one whose nodes' numbers are an int64 in Parquet, also where a pack goes into as many files as it can: in
    /// May 2109.
    pub const LAST: Self = Self((1 << 42) - 1 - (1 << 11));

    /// The stored number of a node of this pack.
    pub fn node(self, row: u32) -> u64 {
        (self.0 << PACK_NODES.trailing_zeros()) + u64::from(row)
    }

    /// The pack of a node.
    pub fn of_node(node: u64) -> Self {
        Self(node >> PACK_NODES.trailing_zeros())
    }

    /// The row of a node of this pack.
    pub fn row_of(self, node: u64) -> u32 {
        (node & u64::from(PACK_NODES - 1)) as u32
    }
}

/// Nodes of one pack, in the order of their rows.
#[derive(Debug)]
pub struct Pack {
    /// All texts, joined.
    pub text: Vec<u8>,
    /// The nodes: what it is, where its text ends, and where its references end.
    pub nodes: Vec<(Kind, usize, usize)>,
    /// All references.
    pub refs: Vec<NodeRef>,
}

impl Default for Pack {
    fn default() -> Self {
        Self { text: Vec::with_capacity(super::LARGE), nodes: Vec::new(), refs: Vec::new() }
    }
}

impl Pack {
    fn push(&mut self, node: Node<'_, NodeRef>) -> u32 {
        self.text.extend_from_slice(node.text);
        self.refs.extend_from_slice(node.refs);
        self.nodes.push((node.kind, self.text.len(), self.refs.len()));
        (self.nodes.len() - 1) as u32
    }

    /// The nodes.
    pub fn iter(&self) -> impl Iterator<Item = Node<'_, NodeRef>> {
        let (mut text, mut refs) = (0, 0);
        self.nodes.iter().map(move |&(kind, text_end, refs_end)| {
            let node = Node { kind, text: &self.text[text..text_end], refs: &self.refs[refs..refs_end] };
            (text, refs) = (text_end, refs_end);
            node
        })
    }

    /// Bytes of memory, about.
    pub fn size(&self) -> usize {
        self.text.len() + self.refs.len() * size_of::<NodeRef>() + self.nodes.len() * 24
    }
}

/// What this process knows of a pack.
#[derive(Debug, Clone, Copy)]
enum State {
    /// Not stored yet.
    Open,
    Stored(PackNumber),
    Failed,
}

/// A cache: which text is which node. Whatever it forgets is stored once more, and nothing else.
pub struct NodeTable {
    /// Nodes by their texts.
    nodes: Known<NodeRef>,
    /// Literals by their own bytes.
    literals: Known<Literal<NodeRef>>,
    open: Mutex<(u32, Pack)>,
    packs: RwLock<Packs>,
    /// When it last knew nothing.
    since: Mutex<(Instant, SystemTime)>,
}

/// What this process knows of all packs.
#[derive(Debug)]
struct Packs {
    states: Vec<State>,
    /// Nodes of packs that did not fail, which lead to nodes of packs that did: no file may have them.
    dead: HashSet<NodeRef>,
}

impl Packs {
    fn is_lost(&self, node: NodeRef) -> bool {
        matches!(self.states.get(node.pack as usize), Some(State::Failed) | None) || self.dead.contains(&node)
    }
}

/// Under which numbers nodes are stored.
#[derive(Debug, Clone)]
pub struct Numbers {
    packs: Vec<Option<PackNumber>>,
    dead: HashSet<NodeRef>,
}

impl Numbers {
    /// A node's stored number; `None` if it is not stored.
    pub fn of(&self, node: NodeRef) -> Option<u64> {
        let pack = self.packs.get(node.pack as usize).copied().flatten()?;
        (!self.dead.contains(&node)).then(|| pack.node(node.row))
    }

    /// The same, if this pack is stored under this number.
    pub fn set(&mut self, pack: u32, number: PackNumber) {
        if let Some(own) = self.packs.get_mut(pack as usize) {
            *own = Some(number);
        }
    }
}

/// What is known is forgotten so often: a pack that no spans file came to name is garbage, which `gc` collects a day
/// after it was made, and until then nobody may name it any more.
pub const FORGET_AFTER: Duration = Duration::from_secs(12 * 3600);

/// Of the budget, one part in so many is for literals: there are fewer of them than of texts, and to forget one costs
/// time and no space.
const LITERALS: usize = 4;

impl NodeTable {
    /// A table of at most about `budget` bytes.
    pub fn new(budget: usize) -> Self {
        let literals = budget / LITERALS;
        Self {
            nodes: Known::new(budget - literals),
            literals: Known::new(literals),
            open: Mutex::default(),
            packs: RwLock::new(Packs { states: vec![State::Open], dead: HashSet::new() }),
            since: Mutex::new((Instant::now(), SystemTime::now())),
        }
    }

    /// How many nodes it knows at most, before it forgets some.
    pub fn capacity(&self) -> usize {
        self.nodes.capacity()
    }

    /// Notes that a stored node has this text.
    pub fn know(&self, key: NodeKey, node: NodeRef) {
        self.nodes.shard(&key).insert(key, node);
    }

    fn packs(&self) -> RwLockReadGuard<'_, Packs> {
        self.packs.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn packs_mut(&self) -> RwLockWriteGuard<'_, Packs> {
        self.packs.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a pack that is stored.
    pub fn know_pack(&self, number: PackNumber) -> u32 {
        let mut packs = self.packs_mut();
        packs.states.push(State::Stored(number));
        (packs.states.len() - 1) as u32
    }

    /// Bytes in the open pack.
    pub fn open_size(&self) -> usize {
        lock(&self.open).1.size()
    }

    /// Closes the open pack and begins another: its place among the packs, and what is in it.
    pub fn seal(&self) -> (u32, Pack) {
        let mut open = lock(&self.open);
        if open.1.nodes.is_empty() {
            return (open.0, Pack::default());
        }
        let mut packs = self.packs_mut();
        packs.states.push(State::Open);
        std::mem::replace(&mut *open, ((packs.states.len() - 1) as u32, Pack::default()))
    }

    /// A sealed pack is stored.
    pub fn stored(&self, pack: u32, number: PackNumber) {
        if let Some(state) = self.packs_mut().states.get_mut(pack as usize) {
            *state = State::Stored(number);
        }
    }

    /// A sealed pack could not be stored, or what would have made it count was not: nothing may name its nodes, nor what
    /// leads to them, and which entries do is not known.
    pub fn failed(&self, pack: u32) {
        {
            // While this is held, nothing is added.
            let open = lock(&self.open);
            let mut packs = self.packs_mut();
            if let Some(state) = packs.states.get_mut(pack as usize).filter(|_| pack != open.0) {
                *state = State::Failed;
            }
            // What a node leads to was there before it.
            for (row, node) in open.1.iter().enumerate() {
                if node.refs.iter().any(|&child| packs.is_lost(child)) {
                    packs.dead.insert(NodeRef { pack: open.0, row: row as u32 });
                }
            }
        }
        self.forget();
    }

    /// True if one of these nodes was in a pack that failed, or leads to one: whatever names it must be lifted again.
    pub fn has_lost(&self, nodes: impl IntoIterator<Item = NodeRef>) -> bool {
        let packs = self.packs();
        nodes.into_iter().any(|node| packs.is_lost(node))
    }

    /// Forgets all that it knows, if that is old, and says so; to be called before a batch is lifted.
    pub fn forget_what_is_old(&self) -> bool {
        self.forget_what_is_old_at(SystemTime::now())
    }

    /// By the machine's clock, which may be set, and by one that may not, and which stops while the machine sleeps: what
    /// either says is old is.
    fn forget_what_is_old_at(&self, now: SystemTime) -> bool {
        let mut since = lock(&self.since);
        let is_old =
            since.0.elapsed() > FORGET_AFTER || now.duration_since(since.1).is_ok_and(|age| age > FORGET_AFTER);
        if is_old {
            *since = (Instant::now(), now);
            drop(since);
            self.forget();
        }
        is_old
    }

    /// Forgets all that it knows.
    pub fn forget(&self) {
        self.nodes.forget();
        self.literals.forget();
    }

    /// The numbers under which nodes are stored.
    pub fn numbers(&self) -> Numbers {
        let packs = self.packs();
        let number = |state: &State| match *state {
            State::Stored(number) => Some(number),
            State::Open | State::Failed => None,
        };
        Numbers { packs: packs.states.iter().map(number).collect(), dead: packs.dead.clone() }
    }
}

impl Nodes for NodeTable {
    type Id = NodeRef;

    fn find(&self, key: &NodeKey) -> Option<NodeRef> {
        self.nodes.shard(key).get(key)
    }

    fn find_shape(&self, key: &NodeKey) -> Option<NodeRef> {
        self.find(key).filter(|node| node.pack == lock(&self.open).0)
    }

    fn add(&self, key: NodeKey, node: Node<'_, NodeRef>) -> NodeRef {
        let mut shard = self.nodes.shard(&key);
        let known = shard.get(&key);
        let mut open = lock(&self.open);
        let pack = open.0;
        if let Some(known) = known.filter(|known| !node.kind.is_shape() || known.pack == pack) {
            return known;
        }
        let is_dead = !node.refs.is_empty() && self.has_lost(node.refs.iter().copied());
        let node = NodeRef { pack, row: open.1.push(node) };
        if is_dead {
            // Its own batch is lost, and no other may find it.
            self.packs_mut().dead.insert(node);
            return node;
        }
        drop(open);
        shard.insert(key, node);
        node
    }

    fn find_literal(&self, key: &NodeKey) -> Option<Literal<NodeRef>> {
        self.literals.shard(key).get(key)
    }

    fn know_literal(&self, key: NodeKey, literal: Literal<NodeRef>) {
        let packs = self.packs();
        // While this is held, no pack fails: whatever is lost is so by now, or is forgotten later, with this.
        if !packs.is_lost(literal.node) {
            self.literals.shard(&key).insert(key, literal);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What they hold is whole between any two statements that could panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packed::lift::{Dialect, Habits};

    #[tokio::test]
    async fn a_literal_whose_text_was_lost_is_not_known() {
        let table = NodeTable::new(1 << 20);
        let key = NodeKey::of(Kind::Leaf, b"text");
        let node = table.add(key, Node { kind: Kind::Leaf, text: b"text", refs: &[] });
        let literal = Literal { node, habits: Habits::JSON, bytes: 4 };
        let literal_key = NodeKey::of_literal(Dialect::Json, b"\"text\"");
        table.know_literal(literal_key, literal);
        assert_eq!(table.find_literal(&literal_key).map(|known| known.node), Some(node));
        let (pack, _) = table.seal();
        table.failed(pack);
        assert!(table.find_literal(&literal_key).is_none());
        // Lifted before its pack failed, noted after.
        table.know_literal(literal_key, literal);
        assert!(table.find_literal(&literal_key).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_is_forgotten_when_the_machine_slept_for_so_long() {
        let table = NodeTable::new(1 << 20);
        let key = NodeKey::of(Kind::Leaf, b"text");
        table.add(key, Node { kind: Kind::Leaf, text: b"text", refs: &[] });
        let began = SystemTime::now();
        assert!(!table.forget_what_is_old_at(began + FORGET_AFTER - Duration::from_secs(60)));
        assert!(!table.forget_what_is_old_at(began - Duration::from_secs(60)));
        assert!(table.find(&key).is_some());
        assert!(table.forget_what_is_old_at(began + FORGET_AFTER + Duration::from_secs(60)));
        assert!(table.find(&key).is_none());
        assert!(!table.forget_what_is_old_at(began + FORGET_AFTER + Duration::from_secs(120)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_is_forgotten_well_before_a_pack_that_nothing_names_is_collected() {
        let table = NodeTable::new(1 << 20);
        let key = NodeKey::of(Kind::Leaf, b"text");
        table.add(key, Node { kind: Kind::Leaf, text: b"text", refs: &[] });
        tokio::time::advance(FORGET_AFTER).await;
        table.forget_what_is_old();
        assert!(table.find(&key).is_some());
        tokio::time::advance(Duration::from_secs(1)).await;
        table.forget_what_is_old();
        assert!(table.find(&key).is_none());
    }
}
