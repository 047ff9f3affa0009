//! A small ordered element tree: everything that was read is kept and written back as it was.
//!
//! What is not touched is written byte for byte as it was read (quotes, white space between attributes, character
//! references). Equality looks at meaning only: how something was written does not count.

use std::collections::HashSet;
use std::fmt;

use kld_core::{Error, Result};
use quick_xml::Reader;
use quick_xml::events::Event;

/// The longest text that is read, in bytes. libvirt's own messages end at 4 MiB (`VIR_NET_MESSAGE_STRING_MAX`).
pub const MAX_SIZE: usize = 4 << 20;
/// How deep elements may lie in each other.
pub const MAX_DEPTH: usize = 128;

const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

/// Characters, and how they were written where they were read from a file.
#[derive(Debug, Clone)]
struct Written {
    value: String,
    source: Option<String>,
}

impl PartialEq for Written {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Eq for Written {}

/// Character data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(Written);

impl Text {
    /// Character data with this meaning.
    pub fn new(value: impl Into<String>) -> Self {
        Text(Written { value: value.into(), source: None })
    }

    /// What it means, references resolved.
    pub fn value(&self) -> &str {
        &self.0.value
    }

    fn is_space(&self) -> bool {
        self.0.value.trim_matches(SPACE).is_empty()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Attribute {
    name: String,
    /// The source is everything from the white space before the name to the closing quote.
    value: Written,
}

/// What can lie in an element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// An element.
    Element(Element),
    /// Character data.
    Text(Text),
    /// The content of a CDATA section.
    CData(String),
    /// The content of a comment.
    Comment(String),
    /// The content of a processing instruction, and of the XML declaration.
    Instruction(String),
}

impl Node {
    fn is_space(&self) -> bool {
        matches!(self, Node::Text(text) if text.is_space())
    }
}

/// An element with its attributes and its content, both in order.
#[derive(Debug, Clone)]
pub struct Element {
    name: String,
    attributes: Vec<Attribute>,
    /// White space after the last attribute.
    tail: String,
    nodes: Vec<Node>,
}

impl PartialEq for Element {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.attributes == other.attributes && self.nodes == other.nodes
    }
}

impl Eq for Element {}

/// Making elements.
impl Element {
    /// An empty element.
    pub fn new(name: impl Into<String>) -> Self {
        Element { name: name.into(), attributes: Vec::new(), tail: String::new(), nodes: Vec::new() }
    }

    /// The same with an attribute.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.set(name, value);
        self
    }

    /// The same with text as its content.
    #[must_use]
    pub fn with_text(mut self, text: impl Into<String>) -> Self {
        self.set_text(text);
        self
    }

    /// The same with one more child.
    #[must_use]
    pub fn with_child(mut self, child: Element) -> Self {
        self.nodes.push(Node::Element(child));
        self
    }

    /// The same with one more child where there is one.
    #[must_use]
    pub fn with_some(self, child: Option<Element>) -> Self {
        match child {
            Some(child) => self.with_child(child),
            None => self,
        }
    }
}

/// Looking.
impl Element {
    /// The name, with its prefix.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value of an attribute.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|a| a.name == name).map(|a| a.value.value.as_str())
    }

    /// The attributes in order.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.attributes.iter().map(|a| (a.name.as_str(), a.value.value.as_str()))
    }

    /// True where it has an attribute of this value.
    pub fn is(&self, name: &str, value: &str) -> bool {
        self.get(name) == Some(value)
    }

    /// Everything in it.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Its text and CDATA, joined; its children's is left out.
    pub fn text(&self) -> String {
        let parts = self.nodes.iter().filter_map(|node| match node {
            Node::Text(text) => Some(text.value()),
            Node::CData(text) => Some(text.as_str()),
            _ => None,
        });
        parts.collect()
    }

    /// The child elements.
    pub fn elements(&self) -> impl Iterator<Item = &Element> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            _ => None,
        })
    }

    /// The child elements, to change them.
    pub fn elements_mut(&mut self) -> impl Iterator<Item = &mut Element> {
        self.nodes.iter_mut().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            _ => None,
        })
    }

    /// The child elements of this name.
    pub fn children<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.elements().filter(move |child| child.name == name)
    }

    /// The child elements of this name, to change them.
    pub fn children_mut<'a>(&'a mut self, name: &'a str) -> impl Iterator<Item = &'a mut Element> {
        self.elements_mut().filter(move |child| child.name == name)
    }

    /// The first child element of this name.
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.elements().find(|child| child.name == name)
    }

    /// The first child element of this name, to change it.
    pub fn child_mut(&mut self, name: &str) -> Option<&mut Element> {
        self.elements_mut().find(|child| child.name == name)
    }

    /// The element at a path of names such as `os/nvram`: the first of each name.
    pub fn find(&self, path: &str) -> Option<&Element> {
        path.split('/').try_fold(self, |element, name| element.child(name))
    }

    /// The element at a path, to change it.
    pub fn find_mut(&mut self, path: &str) -> Option<&mut Element> {
        path.split('/').try_fold(self, |element, name| element.child_mut(name))
    }

    /// The text of the element at a path.
    pub fn text_at(&self, path: &str) -> Option<String> {
        self.find(path).map(Element::text)
    }

    /// The element without its content.
    pub fn shell(&self) -> Element {
        Element {
            name: self.name.clone(),
            attributes: self.attributes.clone(),
            tail: self.tail.clone(),
            nodes: Vec::new(),
        }
    }
}

/// Changing.
impl Element {
    /// Sets an attribute where it stands, or adds it at the end.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        let value = Written { value: value.into(), source: None };
        match self.attributes.iter_mut().find(|a| a.name == name) {
            Some(attribute) if attribute.value == value => {}
            Some(attribute) => attribute.value = value,
            None => self.attributes.push(Attribute { name: name.to_string(), value }),
        }
    }

    /// Takes an attribute off; says whether it was there.
    pub fn unset(&mut self, name: &str) -> bool {
        let before = self.attributes.len();
        self.attributes.retain(|a| a.name != name);
        self.attributes.len() != before
    }

    /// Replaces the content by text.
    pub fn set_text(&mut self, text: impl Into<String>) {
        let text = text.into();
        let plain = self.nodes.iter().all(|node| matches!(node, Node::Text(_) | Node::CData(_)));
        if !plain || self.text() != text {
            self.nodes = if text.is_empty() { Vec::new() } else { vec![Node::Text(Text::new(text))] };
        }
    }

    /// Adds a child at the end; `depth` is the child's (1 for a child of the root).
    pub fn append(&mut self, child: Element, depth: usize) -> &mut Element {
        let at = self.nodes.iter().rposition(|node| !node.is_space()).map_or(0, |last| last + 1);
        self.insert(at, child, depth)
    }

    /// Adds a child after the last one that has one of these names, or else as the first.
    pub fn append_after(&mut self, names: &[&str], child: Element, depth: usize) -> &mut Element {
        let named = |node: &Node| matches!(node, Node::Element(e) if names.contains(&e.name.as_str()));
        let at = self.nodes.iter().rposition(named).map_or(0, |last| last + 1);
        self.insert(at, child, depth)
    }

    /// The first child of this name, made at the end where there is none.
    pub fn ensure(&mut self, name: &str, depth: usize) -> &mut Element {
        match self.nodes.iter().position(|node| matches!(node, Node::Element(e) if e.name == name)) {
            Some(at) => self.element_at(at),
            None => self.append(Element::new(name), depth),
        }
    }

    /// Removes the children that `unwanted` names, with the white space before them; says how many.
    pub fn remove(&mut self, mut unwanted: impl FnMut(&Element) -> bool) -> usize {
        let mut kept: Vec<Node> = Vec::with_capacity(self.nodes.len());
        let mut removed = 0;
        for node in std::mem::take(&mut self.nodes) {
            match &node {
                Node::Element(element) if unwanted(element) => {
                    removed += 1;
                    if kept.last().is_some_and(Node::is_space) {
                        kept.pop();
                    }
                }
                _ => kept.push(node),
            }
        }
        if removed > 0 && kept.iter().all(Node::is_space) {
            kept.clear();
        }
        self.nodes = kept;
        removed
    }

    /// Indents all below it, where no text stands between its children; `depth` is its own.
    pub fn lay_out(&mut self, depth: usize) {
        let bare = |node: &Node| matches!(node, Node::Element(_) | Node::Comment(_) | Node::Instruction(_));
        if self.nodes.is_empty() || !self.nodes.iter().all(bare) {
            return;
        }
        let mut nodes = Vec::with_capacity(self.nodes.len() * 2 + 1);
        for mut node in std::mem::take(&mut self.nodes) {
            if let Node::Element(element) = &mut node {
                element.lay_out(depth + 1);
            }
            nodes.push(Node::Text(Text::new(indent(depth + 1))));
            nodes.push(node);
        }
        nodes.push(Node::Text(Text::new(indent(depth))));
        self.nodes = nodes;
    }

    /// New children stand as their brothers do: on a line of their own, unless those share one.
    fn insert(&mut self, at: usize, mut child: Element, depth: usize) -> &mut Element {
        let lead = if self.nodes.iter().all(Node::is_space) {
            self.nodes = vec![Node::Text(Text::new(indent(depth.saturating_sub(1))))];
            Some(indent(depth))
        } else {
            self.nodes.iter().find_map(|node| match node {
                Node::Text(text) if text.is_space() && text.value().contains('\n') => {
                    Some(text.value().to_string())
                }
                _ => None,
            })
        };
        let mut at = at.min(self.nodes.len());
        if let Some(lead) = lead {
            child.lay_out(depth);
            self.nodes.insert(at, Node::Text(Text::new(lead)));
            at += 1;
        }
        self.nodes.insert(at, Node::Element(child));
        self.element_at(at)
    }

    fn element_at(&mut self, at: usize) -> &mut Element {
        match &mut self.nodes[at] {
            Node::Element(element) => element,
            _ => unreachable!("the index was taken from an element"),
        }
    }
}

fn indent(depth: usize) -> String {
    format!("\n{}", "  ".repeat(depth))
}

/// A whole text: its root element and what stands around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    before: Vec<Node>,
    root: Element,
    after: Vec<Node>,
}

impl Document {
    /// A document of this root, indented and ended by a newline as libvirt's are.
    pub fn new(mut root: Element) -> Self {
        root.lay_out(0);
        Document { before: Vec::new(), root, after: vec![Node::Text(Text::new("\n"))] }
    }

    /// The root element.
    pub fn root(&self) -> &Element {
        &self.root
    }

    /// The root element, to change it.
    pub fn root_mut(&mut self) -> &mut Element {
        &mut self.root
    }

    /// Reads well-formed XML 1.0 without a document type.
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() > MAX_SIZE {
            return Err(bad(format!("it is {} bytes long, more than {MAX_SIZE}", text.len())));
        }
        if let Some(c) = text.chars().find(|c| !is_xml_char(*c)) {
            return Err(bad(format!("it contains the character U+{:04X}", c as u32)));
        }
        let mut reader = Reader::from_str(text);
        reader.config_mut().check_comments = true;
        let mut builder = Builder::default();
        loop {
            let event = reader.read_event().map_err(bad)?;
            let place = reader.buffer_position();
            match builder.take(event) {
                Ok(true) => {}
                Ok(false) => return builder.finish(),
                Err(cause) => return Err(bad(format!("{cause} (before byte {place})"))),
            }
        }
    }
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        self.before.iter().for_each(|node| write_node(node, &mut out));
        write_element(&self.root, &mut out);
        self.after.iter().for_each(|node| write_node(node, &mut out));
        f.write_str(&out)
    }
}

fn bad(cause: impl fmt::Display) -> Error {
    Error::failed("this is not XML that kld reads", cause)
}

/// Collects events into a tree. Errors are phrases.
#[derive(Default)]
struct Builder {
    before: Vec<Node>,
    open: Vec<Element>,
    root: Option<Element>,
    after: Vec<Node>,
}

impl Builder {
    /// False at the end.
    fn take(&mut self, event: Event<'_>) -> Result<bool, String> {
        match event {
            Event::Start(tag) => {
                if self.open.len() >= MAX_DEPTH {
                    return Err(format!("elements lie more than {MAX_DEPTH} deep"));
                }
                self.open.push(start(&tag)?);
            }
            Event::Empty(tag) => {
                if self.open.len() >= MAX_DEPTH {
                    return Err(format!("elements lie more than {MAX_DEPTH} deep"));
                }
                self.add(Node::Element(start(&tag)?))?;
            }
            Event::End(_) => {
                let mut element = self.open.pop().ok_or("an element ends that did not start")?;
                if element.nodes.is_empty() {
                    // Told apart from <a/>, so that it is written as it was.
                    element.nodes.push(Node::Text(Text::new("")));
                }
                self.add(Node::Element(element))?;
            }
            Event::Text(raw) if raw.contains("]]>") => return Err("text contains ]]>".to_string()),
            Event::Text(raw) => self.add_text(&raw)?,
            Event::GeneralRef(name) => self.add_text(&format!("&{};", &*name))?,
            Event::CData(raw) => self.add(Node::CData(raw.to_string()))?,
            Event::Comment(raw) => self.add(Node::Comment(raw.to_string()))?,
            Event::PI(raw) if raw.target().eq_ignore_ascii_case("xml") => {
                return Err("an XML declaration stands in the middle".to_string());
            }
            Event::PI(raw) => self.add(Node::Instruction(raw.to_string()))?,
            Event::Decl(raw) => {
                if !(self.before.is_empty() && self.open.is_empty() && self.root.is_none()) {
                    return Err("an XML declaration stands in the middle".to_string());
                }
                if let Some(encoding) = raw.encoding() {
                    let encoding = encoding.map_err(|cause| cause.to_string())?;
                    // The text is UTF-8 already; a reader of what is written would believe the declaration.
                    if !["utf-8", "us-ascii", "ascii"].contains(&encoding.to_ascii_lowercase().as_str()) {
                        return Err(format!("it says that its encoding is {encoding}, not UTF-8"));
                    }
                }
                self.add(Node::Instruction(raw.to_string()))?;
            }
            Event::DocType(_) => {
                return Err("it has a document type, which a definition never has".to_string());
            }
            Event::Eof => return Ok(false),
        }
        Ok(true)
    }

    fn add(&mut self, node: Node) -> Result<(), String> {
        if let Some(parent) = self.open.last_mut() {
            parent.nodes.push(node);
            return Ok(());
        }
        match node {
            Node::Element(element) if self.root.is_none() => self.root = Some(element),
            Node::Element(element) => {
                return Err(format!("<{}> stands after the root element", element.name));
            }
            Node::CData(_) => return Err("text stands outside of the root element".to_string()),
            Node::Text(ref text) if !text.is_space() => {
                return Err("text stands outside of the root element".to_string());
            }
            node if self.root.is_none() => self.before.push(node),
            node => self.after.push(node),
        }
        Ok(())
    }

    /// The reader gives references apart from the text around them: join them.
    fn add_text(&mut self, raw: &str) -> Result<(), String> {
        let value = resolve(raw, false)?;
        if let Some(Node::Text(Text(last))) = self.open.last_mut().and_then(|parent| parent.nodes.last_mut())
        {
            last.value.push_str(&value);
            last.source.get_or_insert_default().push_str(raw);
            return Ok(());
        }
        self.add(Node::Text(Text(Written { value, source: Some(raw.to_string()) })))
    }

    fn finish(mut self) -> Result<Document> {
        if let Some(element) = self.open.pop() {
            return Err(bad(format!("<{}> does not end", element.name)));
        }
        let root = self.root.ok_or_else(|| bad("it has no element"))?;
        Ok(Document { before: self.before, root, after: self.after })
    }
}

/// Reads what stands between `<` and `>` of a start tag.
fn start(tag: &str) -> Result<Element, String> {
    let (name, mut rest) = tag.split_at(tag.find(SPACE).unwrap_or(tag.len()));
    let mut element = Element::new(check_name(name)?);
    let mut seen = HashSet::new();
    loop {
        let body = rest.trim_start_matches(SPACE);
        if body.is_empty() {
            element.tail = rest.to_string();
            return Ok(element);
        }
        if body.len() == rest.len() {
            return Err(format!("attributes of <{name}> are not separated"));
        }
        let broken = || format!("an attribute of <{name}> is not written name='value'");
        let (key, after) = body.split_once('=').ok_or_else(broken)?;
        let key = check_name(key.trim_end_matches(SPACE))?;
        let after = after.trim_start_matches(SPACE);
        let quote = after.chars().next().filter(|c| matches!(c, '\'' | '"')).ok_or_else(broken)?;
        let (raw, next) = after[1..].split_once(quote).ok_or_else(broken)?;
        if raw.contains('<') {
            return Err(broken());
        }
        if !seen.insert(key) {
            return Err(format!("<{name}> has the attribute {key} twice"));
        }
        let source = rest[..rest.len() - next.len()].to_string();
        let value = Written { value: resolve(raw, true)?, source: Some(source) };
        element.attributes.push(Attribute { name: key.to_string(), value });
        rest = next;
    }
}

fn check_name(name: &str) -> Result<&str, String> {
    let first = |c: char| c.is_ascii_alphabetic() || matches!(c, '_' | ':') || !c.is_ascii();
    let other = |c: char| first(c) || c.is_ascii_digit() || matches!(c, '-' | '.');
    if name.starts_with(first) && name.chars().all(other) {
        Ok(name)
    } else {
        Err(format!("'{}' is not a name", name.chars().take(40).collect::<String>().escape_debug()))
    }
}

/// The `Char` production of XML 1.0.
fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// Resolves references and line ends. Only the five entities of XML itself are known.
fn resolve(raw: &str, attribute: bool) -> Result<String, String> {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '&' => {
                let (name, next) = rest.split_once(';').ok_or("a reference does not end")?;
                out.push(reference(name)?);
                rest = next;
            }
            '\r' => {
                rest = rest.strip_prefix('\n').unwrap_or(rest);
                out.push(if attribute { ' ' } else { '\n' });
            }
            '\n' | '\t' if attribute => out.push(' '),
            c => out.push(c),
        }
    }
    Ok(out)
}

fn reference(name: &str) -> Result<char, String> {
    let code = match name {
        "lt" => return Ok('<'),
        "gt" => return Ok('>'),
        "amp" => return Ok('&'),
        "apos" => return Ok('\''),
        "quot" => return Ok('"'),
        _ => match name.strip_prefix("#x") {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_hexdigit()) => {
                u32::from_str_radix(digits, 16).ok()
            }
            Some(_) => None,
            None => name
                .strip_prefix('#')
                .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|digits| digits.parse().ok()),
        },
    };
    let shown = || name.chars().take(40).collect::<String>().escape_debug().to_string();
    code.and_then(char::from_u32)
        .filter(|c| is_xml_char(*c))
        .ok_or_else(|| format!("it refers to '&{};'", shown()))
}

fn write_node(node: &Node, out: &mut String) {
    match node {
        Node::Element(element) => write_element(element, out),
        Node::Text(Text(text)) => match &text.source {
            Some(source) => out.push_str(source),
            None => escape(&text.value, false, out),
        },
        Node::CData(raw) => out.extend(["<![CDATA[", raw, "]]>"]),
        Node::Comment(raw) => out.extend(["<!--", raw, "-->"]),
        Node::Instruction(raw) => out.extend(["<?", raw, "?>"]),
    }
}

fn write_element(element: &Element, out: &mut String) {
    out.extend(["<", &element.name]);
    for attribute in &element.attributes {
        match &attribute.value.source {
            Some(source) => out.push_str(source),
            None => {
                out.extend([" ", &attribute.name, "='"]);
                escape(&attribute.value.value, true, out);
                out.push('\'');
            }
        }
    }
    out.push_str(&element.tail);
    if element.nodes.is_empty() {
        out.push_str("/>");
        return;
    }
    out.push('>');
    element.nodes.iter().for_each(|node| write_node(node, out));
    out.extend(["</", &element.name, ">"]);
}

/// Escapes as libvirt's `virBufferEscapeString`, and what a reader would turn into something else.
fn escape(value: &str, attribute: bool, out: &mut String) {
    for c in value.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\'' => out.push_str("&apos;"),
            '"' => out.push_str("&quot;"),
            '\r' => out.push_str("&#13;"),
            '\n' if attribute => out.push_str("&#10;"),
            '\t' if attribute => out.push_str("&#9;"),
            // XML has no way to say these; they never come from a file, and libvirt would refuse the whole text.
            c if !is_xml_char(c) => out.push(char::REPLACEMENT_CHARACTER),
            c => out.push(c),
        }
    }
}
