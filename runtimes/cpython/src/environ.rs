//! The environ dict of a request.
//!
//! Where it stands in the walk of a request: first thing after the claim; reads the slot's record.
//!
//! How it is fast: requests come in few *shapes* (the same variables in the same order), and most
//! values are those of the request before. For each shape there is a template dict that holds the
//! values of the last request of that shape. A new request walks its record beside the template's
//! slots: where the bytes are the same nothing is done, where they differ a new `str` replaces the
//! old one in the template; then the template is copied. CPython copies such a dict by cloning its
//! table, without hashing or growing. docs/cpython.md has the figures.
//!
//! Invariants: the application gets a plain `dict` of its own each time, never the template.
//! Templates are private to a seat, at most [`TEMPLATES_MAX`], each no larger than the largest
//! request head, so what strangers send cannot make them grow. `wsgi.*` and `ringhorn.*` names
//! never come from a record, except the known ones.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};
use ringhorn_exchange::{Claim, Key, KeyId, Variable};

use crate::python;

/// Shapes that a seat remembers. nginx in front gives 1 to 5; browsers directly some more. By
/// taste.
const TEMPLATES_MAX: usize = 16;

/// What is the same for every request of a worker.
pub struct Constants<'py> {
    /// `SERVER_SOFTWARE`.
    pub server_software: String,
    /// `wsgi.multithread`: other seats of this process may call the application at the same time.
    pub multithread: bool,
    /// `wsgi.multiprocess`: other workers may.
    pub multiprocess: bool,
    /// `wsgi.errors`.
    pub errors: Bound<'py, PyAny>,
    /// `wsgi.file_wrapper`.
    pub file_wrapper: Bound<'py, PyAny>,
}

/// Makes environ dicts for one seat.
pub struct EnvironMaker {
    /// Interned names, by [`KeyId::index`].
    names: Vec<Py<PyAny>>,
    /// What every environ holds, with stand-ins for what PEP 3333 requires and a gateway may leave
    /// out.
    base: Py<PyDict>,
    input_key: Py<PyAny>,
    disconnected_key: Py<PyAny>,
    scheme_key: Py<PyAny>,
    http: Py<PyAny>,
    https: Py<PyAny>,
    /// Most recently used first.
    templates: Vec<Template>,
}

struct Template {
    dict: Py<PyDict>,
    slots: Vec<TemplateSlot>,
    https: bool,
}

struct TemplateSlot {
    key: SlotKey,
    name: Py<PyAny>,
    /// The bytes of the value that the template holds now.
    value: Vec<u8>,
}

enum SlotKey {
    Known(KeyId),
    Named(Box<[u8]>),
}

impl SlotKey {
    #[inline]
    fn is(&self, key: Key<'_>) -> bool {
        match (self, key) {
            (SlotKey::Known(mine), Key::Known(other)) => *mine == other,
            (SlotKey::Named(mine), Key::Named(other)) => **mine == *other,
            _ => false,
        }
    }
}

impl EnvironMaker {
    /// Interns the names and builds the base.
    pub fn new(py: Python<'_>, constants: &Constants<'_>) -> PyResult<Self> {
        let intern = |name: &str| PyString::intern(py, name).into_any().unbind();
        let base = PyDict::new(py);
        // A gateway may leave these out; PEP 3333 lets an application count on them.
        for (name, value) in [
            ("REQUEST_METHOD", "GET"),
            ("SCRIPT_NAME", ""),
            ("PATH_INFO", ""),
            ("QUERY_STRING", ""),
            ("SERVER_NAME", "localhost"),
            ("SERVER_PORT", "80"),
            ("SERVER_PROTOCOL", "HTTP/1.1"),
            ("SERVER_SOFTWARE", constants.server_software.as_str()),
            ("ringhorn.request_id", "-"),
            ("wsgi.url_scheme", "http"),
        ] {
            base.set_item(PyString::intern(py, name), PyString::intern(py, value))?;
        }
        base.set_item(intern("wsgi.version"), PyTuple::new(py, [1, 0])?)?;
        base.set_item(intern("wsgi.input"), py.None())?;
        base.set_item(intern("ringhorn.client_disconnected"), py.None())?;
        base.set_item(intern("wsgi.errors"), &constants.errors)?;
        base.set_item(intern("wsgi.multithread"), constants.multithread)?;
        base.set_item(intern("wsgi.multiprocess"), constants.multiprocess)?;
        base.set_item(intern("wsgi.run_once"), false)?;
        base.set_item(intern("wsgi.input_terminated"), true)?;
        base.set_item(intern("wsgi.file_wrapper"), &constants.file_wrapper)?;
        Ok(EnvironMaker {
            names: KeyId::ALL.iter().map(|key| intern(key.name())).collect(),
            base: base.unbind(),
            input_key: intern("wsgi.input"),
            disconnected_key: intern("ringhorn.client_disconnected"),
            scheme_key: intern("wsgi.url_scheme"),
            http: intern("http"),
            https: intern("https"),
            templates: Vec::with_capacity(TEMPLATES_MAX),
        })
    }

    /// The environ of the claimed request, with `input` as `wsgi.input` and `disconnected` as
    /// `ringhorn.client_disconnected`.
    pub fn make<'py>(
        &mut self,
        py: Python<'py>,
        claim: &Claim,
        https: bool,
        input: &Bound<'py, PyAny>,
        disconnected: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let environ = match self.copy_template(py, claim, https)? {
            Some(environ) => environ,
            None => self.build_template(py, claim, https)?,
        };
        python::dict_set(&environ, self.input_key.bind(py), input)?;
        python::dict_set(&environ, self.disconnected_key.bind(py), disconnected)?;
        Ok(environ)
    }

    #[inline]
    fn copy_template<'py>(
        &mut self,
        py: Python<'py>,
        claim: &Claim,
        https: bool,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        let variables = usize::from(claim.head().variables);
        for index in 0..self.templates.len() {
            let template = &mut self.templates[index];
            if template.https != https || template.slots.len() != variables {
                continue;
            }
            // The template used last is tried with its values at once; others only if they fit.
            if index > 0 && !template.fits(claim) || !template.fill(py, claim)? {
                continue;
            }
            let environ = template.dict.bind(py).copy()?;
            self.templates.swap(0, index);
            return Ok(Some(environ));
        }
        Ok(None)
    }

    /// A shape not seen before, or not lately: builds its template and copies that.
    #[cold]
    fn build_template<'py>(
        &mut self,
        py: Python<'py>,
        claim: &Claim,
        https: bool,
    ) -> PyResult<Bound<'py, PyDict>> {
        let dict = self.base.bind(py).copy()?;
        let scheme = if https { &self.https } else { &self.http };
        dict.set_item(&self.scheme_key, scheme)?;
        let mut slots: Vec<TemplateSlot> = Vec::new();
        let mut regular = true;
        for Variable { key, value, ascii } in claim.variables() {
            let (slot_key, name) = match key {
                Key::Known(id) => (SlotKey::Known(id), self.names[id.index()].clone_ref(py)),
                Key::Named(name) if is_ours(name) => {
                    regular = false;
                    continue;
                }
                Key::Named(name) => {
                    let text = python::latin1(py, name, name.is_ascii())?;
                    (SlotKey::Named(name.into()), text.unbind())
                }
            };
            // A repeated name would make two slots fight for one entry of the template.
            regular &= !slots.iter().any(|slot| slot.key.is(key));
            python::dict_set(&dict, name.bind(py), &python::latin1(py, value, ascii)?)?;
            slots.push(TemplateSlot { key: slot_key, name, value: value.to_vec() });
        }
        if !regular {
            return Ok(dict);
        }
        let environ = dict.copy()?;
        if self.templates.len() == TEMPLATES_MAX {
            self.templates.pop();
        }
        self.templates.insert(0, Template { dict: dict.unbind(), slots, https });
        Ok(environ)
    }
}

impl Template {
    /// Whether the request has this template's names in this order. The counts are equal already.
    fn fits(&self, claim: &Claim) -> bool {
        let mut slots = self.slots.iter();
        claim.variables().all(|variable| slots.next().is_some_and(|slot| slot.key.is(variable.key)))
    }

    /// Puts the request's values into the template; false if the request is of another shape (what
    /// was replaced until then stays: it is what the slot remembers, too).
    #[inline]
    fn fill(&mut self, py: Python<'_>, claim: &Claim) -> PyResult<bool> {
        let mut slots = self.slots.iter_mut();
        for Variable { key, value, ascii } in claim.variables() {
            let Some(slot) = slots.next() else { return Ok(false) };
            if !slot.key.is(key) {
                return Ok(false);
            }
            if slot.value != value {
                slot.replace(py, &self.dict, value, ascii)?;
            }
        }
        Ok(slots.next().is_none())
    }
}

impl TemplateSlot {
    fn replace(
        &mut self,
        py: Python<'_>,
        dict: &Py<PyDict>,
        value: &[u8],
        ascii: bool,
    ) -> PyResult<()> {
        let text = python::latin1(py, value, ascii)?;
        python::dict_set(dict.bind(py), self.name.bind(py), &text)?;
        self.value.clear();
        self.value.extend_from_slice(value);
        Ok(())
    }
}

/// Names that only the server gives.
fn is_ours(name: &[u8]) -> bool {
    name.starts_with(b"wsgi.") || name.starts_with(b"ringhorn.")
}
