//! Nodes in memory, and what they stand for. The fuzz targets use it as well.

use gravity_pipeline::packed::lift::{Literal, Nodes, fill};
use gravity_pipeline::packed::node::{Kind, Node, NodeKey};
use gravity_pipeline::packed::row::{Row, Rows, Values};
use gravity_pipeline::packed::shape::{Broken, Column, unshred};
use std::collections::HashMap;
use std::sync::Mutex;

#[derive(Default)]
pub struct InMemory(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    by_key: HashMap<NodeKey, usize>,
    literals: HashMap<NodeKey, Literal<usize>>,
    nodes: Vec<(Kind, Vec<u8>, Vec<usize>)>,
}

impl Nodes for InMemory {
    type Id = usize;

    fn find(&self, key: &NodeKey) -> Option<usize> {
        self.0.lock().unwrap().by_key.get(key).copied()
    }

    fn find_shape(&self, key: &NodeKey) -> Option<usize> {
        self.find(key)
    }

    fn add(&self, key: NodeKey, node: Node<'_, usize>) -> usize {
        let mut inner = self.0.lock().unwrap();
        if let Some(&id) = inner.by_key.get(&key) {
            return id;
        }
        inner.nodes.push((node.kind, node.text.to_vec(), node.refs.to_vec()));
        let id = inner.nodes.len() - 1;
        inner.by_key.insert(key, id);
        id
    }

    fn find_literal(&self, key: &NodeKey) -> Option<Literal<usize>> {
        self.0.lock().unwrap().literals.get(key).copied()
    }

    fn know_literal(&self, key: NodeKey, literal: Literal<usize>) {
        self.0.lock().unwrap().literals.insert(key, literal);
    }
}

#[allow(dead_code)]
impl InMemory {
    pub fn kind(&self, id: usize) -> Kind {
        self.get(id).0
    }

    pub fn text(&self, id: usize) -> Vec<u8> {
        self.get(id).1
    }

    /// Every text that is a node of its own.
    pub fn leaves(&self) -> Vec<Vec<u8>> {
        let inner = self.0.lock().unwrap();
        inner.nodes.iter().filter(|node| node.0 == Kind::Leaf).map(|node| node.1.clone()).collect()
    }

    fn get(&self, id: usize) -> (Kind, Vec<u8>, Vec<usize>) {
        self.0.lock().unwrap().nodes[id].clone()
    }

    pub fn expand(&self, id: usize, out: &mut Vec<u8>) {
        let (kind, text, refs) = self.get(id);
        let mut refs = refs.into_iter();
        match kind {
            Kind::Leaf => out.extend_from_slice(&text),
            Kind::Pieces | Kind::Alias => refs.by_ref().for_each(|child| self.expand(child, out)),
            Kind::Template(habit) => fill(&text, habit, out, |inner| {
                self.expand(refs.next().ok_or("a hole without a node")?, inner);
                Ok::<_, &str>(())
            })
            .unwrap(),
            Kind::JsonShape | Kind::ProtobufShape => panic!("a shape where a text should be"),
        }
        assert_eq!(refs.next(), None, "a node without a hole");
    }

    /// The bytes of all rows.
    pub fn join(&self, rows: &Rows<usize>) -> Vec<u8> {
        let mut out = Vec::new();
        for at in 0..rows.rows.len() {
            self.row(rows, at, &mut out);
        }
        out
    }

    /// The bytes of one row; gives where its record begins.
    pub fn row(&self, rows: &Rows<usize>, at: usize, out: &mut Vec<u8>) -> usize {
        let row = &rows.rows[at];
        let refs = rows.refs_of(at).to_vec().into_iter();
        let Some(shape) = row.shape else {
            let start = out.len();
            refs.for_each(|id| self.expand(id, out));
            return start;
        };
        let (kind, shape, _) = self.get(shape);
        let rest: Vec<&[u8]> = rows.rest_of(at).map(|(_, value)| value).collect();
        let mut values = OfRow { rows, row, refs, rest: rest.into_iter(), nodes: self };
        let start = unshred(kind == Kind::JsonShape, &shape, &mut values, out).unwrap();
        assert_eq!((values.refs.next(), values.rest.next()), (None, None), "more values than places");
        start
    }
}

struct OfRow<'a> {
    rows: &'a Rows<usize>,
    row: &'a Row<usize>,
    refs: std::vec::IntoIter<usize>,
    rest: std::vec::IntoIter<&'a [u8]>,
    nodes: &'a InMemory,
}

impl Values for OfRow<'_> {
    type Error = Broken;

    fn trace_id(&self) -> Option<[u8; 16]> {
        self.row.trace_id
    }

    fn span_id(&self, parent: bool) -> Option<[u8; 8]> {
        if parent { self.row.parent_span_id } else { self.row.span_id }
    }

    fn text(&self, column: Column) -> Option<&[u8]> {
        let id = match column {
            Column::Name => self.row.name,
            Column::Model => self.row.model,
            Column::Provider => self.row.provider,
            _ => None,
        };
        id.map(|id| self.rows.texts.get(id))
    }

    fn integer(&self, column: Column) -> Option<i64> {
        match column {
            Column::Start => self.row.start,
            Column::End => self.row.end,
            Column::InputTokens => self.row.input_tokens,
            Column::OutputTokens => self.row.output_tokens,
            _ => None,
        }
    }

    fn cost(&self) -> Option<f64> {
        self.row.cost
    }

    fn rest(&mut self, out: &mut Vec<u8>) -> Result<(), Broken> {
        out.extend_from_slice(self.rest.next().ok_or("a value is missing")?);
        Ok(())
    }

    fn next_ref(&mut self, out: &mut Vec<u8>) -> Result<(), Broken> {
        self.nodes.expand(self.refs.next().ok_or("a reference is missing")?, out);
        Ok(())
    }
}
