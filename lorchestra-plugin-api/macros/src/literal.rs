//! Conversion of a default's literal to JSON.

use syn::{Expr, ExprLit, ExprUnary, Lit, UnOp};

/// Converts the literal to JSON text.
pub(crate) fn to_json(expr: &Expr) -> syn::Result<String> {
    let (negative, lit) = match expr {
        Expr::Lit(ExprLit { lit, .. }) => (false, lit),
        Expr::Unary(ExprUnary { op: UnOp::Neg(_), expr, .. }) => match &**expr {
            Expr::Lit(ExprLit { lit: lit @ (Lit::Int(_) | Lit::Float(_)), .. }) => (true, lit),
            _ => return Err(not_a_literal(expr)),
        },
        _ => return Err(not_a_literal(expr)),
    };
    let sign = if negative { "-" } else { "" };
    match lit {
        Lit::Int(int) => Ok(format!("{sign}{}", int.base10_digits())),
        Lit::Float(float) => {
            let value: f64 = float.base10_parse()?;
            if value.is_finite() {
                Ok(format!("{sign}{value:?}"))
            } else {
                Err(syn::Error::new_spanned(expr, "a default must be finite"))
            }
        }
        Lit::Str(text) => Ok(json_string(&text.value())),
        Lit::Bool(value) => Ok(value.value.to_string()),
        _ => Err(not_a_literal(expr)),
    }
}

fn not_a_literal(at: &Expr) -> syn::Error {
    syn::Error::new_spanned(at, "a default must be a literal: a number, a string, `true` or `false`")
}

fn json_string(text: &str) -> String {
    let mut json = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            c if c < ' ' => json.push_str(&format!("\\u{:04x}", c as u32)),
            c => json.push(c),
        }
    }
    json.push('"');
    json
}
