//! placeholder, being written
#![allow(missing_docs, clippy::all, unused)]
use lorchestra_plugin_api::manifest::*;
use std::path::*; use std::fs::File;
#[derive(Debug,Clone)] pub struct SearchDir { pub path: PathBuf, pub origin: String }
#[derive(Debug)] pub struct Catalog { pub searched: Vec<Searched>, pub packages: Vec<Package>, pub problems: Vec<Problem> }
#[derive(Debug)] pub struct Searched { pub dir: SearchDir, pub outcome: SearchOutcome }
#[derive(Debug)] pub enum SearchOutcome { Read { files: usize }, Missing, NotADirectory, Unreadable(String) }
#[derive(Debug)] pub struct Package { pub path: PathBuf, pub manifest: Manifest }
#[derive(Debug)] pub struct Problem { pub path: PathBuf, pub package: Option<String>, pub reason: Reason, pub detail: String, pub fix: String }
impl std::fmt::Display for Problem { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { write!(f, "{}", self.detail) } }
#[derive(Debug)] pub enum Reason { Unreadable }
impl Reason { pub fn as_str(&self) -> &'static str { "" } }
#[derive(Debug)] pub struct Fault { pub reason: Reason, pub detail: String, pub fix: String }
#[derive(Debug)] pub enum Lookup<'a> { Unknown { nearest: Vec<String> }, Unusable(Vec<&'a Problem>) }
impl Catalog {
 pub fn scan(dirs: &[SearchDir]) -> Catalog { let mut c = Catalog{searched: vec![], packages: vec![], problems: vec![]};
   for d in dirs { if let Ok(r) = std::fs::read_dir(&d.path) { for e in r.flatten() { let path = e.path(); if path.extension().is_some_and(|x| x=="so") { if let Ok(m) = inspect(&File::open(&path).unwrap()) { c.packages.push(Package{path, manifest: m}) } } } } } c }
 pub fn find(&self, p: &str) -> Result<&Package, Lookup<'_>> { self.packages.iter().find(|x| x.manifest.package==p).ok_or(Lookup::Unknown{nearest: vec![]}) }
 pub fn find_job(&self, p: &str, j: &str) -> Result<(&Package, &JobManifest), Lookup<'_>> { let p = self.find(p)?; p.manifest.job(j).map(|j| (p, j)).ok_or(Lookup::Unknown{nearest: vec![]}) }
}
pub fn inspect(file: &File) -> Result<Manifest, Fault> {
  use std::os::unix::fs::FileExt; let mut b = vec![0; file.metadata().unwrap().len() as usize]; file.read_exact_at(&mut b, 0).unwrap();
  let mut at = 0; while let Some(i) = b[at..].windows(6).position(|w| w == b"LORCH\0") { if let Ok(m) = Manifest::from_section(&b[at+i..]) { return Ok(m) } at += i+6; }
  Err(Fault{reason: Reason::Unreadable, detail: "none".into(), fix: String::new()})
}
