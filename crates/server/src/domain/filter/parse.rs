//! Reads a filter: tokens, then `or` over `and` over `not`.

use super::{
    Comparison, DEPTH_MAX, Expression, FIELDS, FILTER_BYTES_MAX, Field, FilterError, Problem,
    TERMS_MAX, Test,
};

pub(super) fn expression(text: &str) -> Result<Expression, FilterError> {
    if text.len() > FILTER_BYTES_MAX {
        let (found, max) = (text.len(), FILTER_BYTES_MAX);
        let what = "bytes in the filter:";
        return Err(too_much(1, what, found, max));
    }
    let mut parser = Parser {
        tokens: tokens(text)?,
        at: 0,
        end: text.chars().count() + 1,
        terms: 0,
    };
    let root = parser.any(0)?;
    match parser.peek() {
        None => Ok(root),
        Some(_) => Err(parser.expected("`and`, `or` or the end")),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// `and`, `version`, `1.2.0`, `sensor-*`
    Word(String),
    /// A text in double quotes.
    Quoted(String),
    /// `(`, `)`, `,`, `==` …
    Sign(&'static str),
}

impl Token {
    fn shown(&self) -> String {
        match self {
            Self::Word(word) => format!("`{word}`"),
            Self::Quoted(text) => format!("{text:?}"),
            Self::Sign(sign) => format!("`{sign}`"),
        }
    }
}

/// The longer ones first, so that `<=` is not read as `<`.
const SIGNS: [&str; 11] = ["==", "!=", "=~", "<=", ">=", "<", ">", "(", ")", ",", "="];

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || "._:-+*?/@".contains(character)
}

/// The tokens, each with its position in characters from 1.
fn tokens(text: &str) -> Result<Vec<(usize, Token)>, FilterError> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let position = text.chars().count() - rest.chars().count() + 1;
        if first.is_whitespace() {
            rest = &rest[first.len_utf8()..];
            continue;
        }
        if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            rest = &rest[sign.len()..];
            tokens.push((position, Token::Sign(sign)));
        } else if first == '"' {
            let (token, length) = quoted(rest).ok_or(FilterError {
                position,
                problem: Problem::Quote,
            })?;
            rest = &rest[length..];
            tokens.push((position, token));
        } else if is_word(first) {
            let end = rest.find(|next| !is_word(next)).unwrap_or(rest.len());
            tokens.push((position, Token::Word(rest[..end].to_owned())));
            rest = &rest[end..];
        } else {
            let problem = Problem::Character(first);
            return Err(FilterError { position, problem });
        }
    }
    Ok(tokens)
}

/// A text in quotes with its length in the source; `\"` and `\\` stand for `"` and `\`.
fn quoted(source: &str) -> Option<(Token, usize)> {
    let mut text = String::new();
    let mut characters = source.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((Token::Quoted(text), at + 1)),
            '\\' => text.push(characters.next()?.1),
            other => text.push(other),
        }
    }
    None
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    at: usize,
    /// Position behind the last character.
    end: usize,
    terms: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(_, token)| token)
    }

    fn position(&self) -> usize {
        self.tokens
            .get(self.at)
            .map_or(self.end, |(position, _)| *position)
    }

    fn expected(&self, expected: &'static str) -> FilterError {
        let found = self.peek().map_or("the end".to_owned(), Token::shown);
        FilterError {
            position: self.position(),
            problem: Problem::Expected { expected, found },
        }
    }

    fn takes_word(&mut self, wanted: &str) -> bool {
        let is_there = matches!(self.peek(), Some(Token::Word(word)) if word == wanted);
        self.at += usize::from(is_there);
        is_there
    }

    fn takes_sign(&mut self, wanted: &str) -> bool {
        let is_there = matches!(self.peek(), Some(Token::Sign(sign)) if *sign == wanted);
        self.at += usize::from(is_there);
        is_there
    }

    fn any(&mut self, depth: usize) -> Result<Expression, FilterError> {
        let mut parts = vec![self.all(depth)?];
        while self.takes_word("or") {
            parts.push(self.all(depth)?);
        }
        Ok(one_or(parts, Expression::Or))
    }

    fn all(&mut self, depth: usize) -> Result<Expression, FilterError> {
        let mut parts = vec![self.one(depth)?];
        while self.takes_word("and") {
            parts.push(self.one(depth)?);
        }
        Ok(one_or(parts, Expression::And))
    }

    fn one(&mut self, depth: usize) -> Result<Expression, FilterError> {
        let position = self.position();
        let inner = depth + 1;
        if self.takes_word("not") {
            check_depth(position, inner)?;
            return Ok(Expression::Not(Box::new(self.one(inner)?)));
        }
        if self.takes_sign("(") {
            check_depth(position, inner)?;
            let inside = self.any(inner)?;
            return match self.takes_sign(")") {
                true => Ok(inside),
                false => Err(self.expected("`and`, `or` or `)`")),
            };
        }
        self.terms += 1;
        if self.terms > TERMS_MAX {
            return Err(too_much(position, "comparisons:", self.terms, TERMS_MAX));
        }
        if self.takes_word("all") {
            return Ok(Expression::All);
        }
        if self.takes_word("has") {
            return Ok(Expression::Has(self.field()?));
        }
        let field = self.field()?;
        self.comparison(field)
    }

    fn field(&mut self) -> Result<Field, FilterError> {
        let position = self.position();
        let Some(Token::Word(word)) = self.peek() else {
            return Err(self.expected("a field, `not`, `has`, `all` or `(`"));
        };
        let named = |prefix: &str| word.strip_prefix(prefix).filter(|name| !name.is_empty());
        let plain = FIELDS.iter().find(|(name, _)| name == word);
        let field = plain
            .map(|(_, field)| field.clone())
            .or_else(|| named("tag.").map(|name| Field::Tag(name.to_owned())))
            .or_else(|| named("attr.").map(|name| Field::Attribute(name.to_owned())));
        let problem = Problem::Field(word.clone());
        let field = field.ok_or(FilterError { position, problem })?;
        self.at += 1;
        Ok(field)
    }

    fn comparison(&mut self, field: Field) -> Result<Expression, FilterError> {
        if self.takes_word("in") {
            let values = self.list()?;
            return Ok(Expression::Compare(field, Test::In(values)));
        }
        let sign = match self.peek() {
            Some(Token::Sign(sign @ ("==" | "!=" | "=~" | "<" | "<=" | ">" | ">="))) => *sign,
            _ => return Err(self.expected("`==`, `!=`, `=~`, `<`, `<=`, `>`, `>=` or `in`")),
        };
        self.at += 1;
        let value = self.value()?;
        let order = |comparison| Test::Order(comparison, value.clone());
        let test = match sign {
            "==" => Test::In(vec![value]),
            "!=" => {
                let equal = Expression::Compare(field, Test::In(vec![value]));
                return Ok(Expression::Not(Box::new(equal)));
            }
            "=~" => Test::Like(value),
            "<" => order(Comparison::Less),
            "<=" => order(Comparison::LessOrEqual),
            ">" => order(Comparison::Greater),
            _ => order(Comparison::GreaterOrEqual),
        };
        Ok(Expression::Compare(field, test))
    }

    fn list(&mut self) -> Result<Vec<String>, FilterError> {
        if !self.takes_sign("(") {
            return Err(self.expected("`(` and values, such as `(a, b)`"));
        }
        let mut values = vec![self.value()?];
        while self.takes_sign(",") {
            values.push(self.value()?);
        }
        match self.takes_sign(")") {
            true => Ok(values),
            false => Err(self.expected("`,` or `)`")),
        }
    }

    fn value(&mut self) -> Result<String, FilterError> {
        let value = match self.peek() {
            Some(Token::Word(word) | Token::Quoted(word)) => word.clone(),
            _ => return Err(self.expected("a value")),
        };
        self.at += 1;
        Ok(value)
    }
}

fn one_or(mut parts: Vec<Expression>, many: fn(Vec<Expression>) -> Expression) -> Expression {
    match parts.len() {
        1 => parts.remove(0),
        _ => many(parts),
    }
}

fn check_depth(position: usize, depth: usize) -> Result<(), FilterError> {
    match depth > DEPTH_MAX {
        true => Err(too_much(
            position,
            "levels inside each other:",
            depth,
            DEPTH_MAX,
        )),
        false => Ok(()),
    }
}

fn too_much(position: usize, what: &'static str, found: usize, max: usize) -> FilterError {
    let problem = Problem::TooMuch { what, found, max };
    FilterError { position, problem }
}
