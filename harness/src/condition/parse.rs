//! From words to a tree.

use std::ops::Range;

use super::Wrong;
use super::lex::Token;

/// Deepest nesting: far beyond any condition that is read by people, and far from the end of a stack.
const DEEPEST: usize = 64;

/// A part of a condition.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) what: What,
    /// Where it stands in the text.
    pub(super) at: Range<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum What {
    Or(Box<[Node; 2]>),
    And(Box<[Node; 2]>),
    Not(Box<Node>),
    Compare(Relation, Box<[Node; 2]>),
    Len(Box<Node>),
    /// The names of two kernels.
    Differs([String; 2]),
    Number(f64),
    Text(String),
    Truth(bool),
    Null,
    Path(Vec<(Step, Range<usize>)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    Equal,
    Unequal,
    Less,
    AtMost,
    More,
    AtLeast,
    Contains,
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Member(String),
    Position(usize),
    Having(String),
    Where(Node),
}

type Tokens<'a> = &'a [(Token, Range<usize>)];

struct Parser<'a> {
    tokens: Tokens<'a>,
    next: usize,
    end: usize,
    depth: usize,
}

/// The tree of a whole condition; `end` is the length of its text.
pub(super) fn parse(tokens: Tokens<'_>, end: usize) -> Result<Node, Wrong> {
    let mut parser = Parser { tokens, next: 0, end, depth: 0 };
    let node = parser.any()?;
    match parser.tokens.get(parser.next) {
        None => Ok(node),
        Some((_, at)) => {
            Err((at.clone(), "the condition should have ended here, or go on with `and` or `or`".to_owned()))
        }
    }
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.next).map(|(token, _)| token)
    }

    fn here(&self) -> Range<usize> {
        self.tokens.get(self.next).map_or(self.end..self.end, |(_, at)| at.clone())
    }

    fn word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Name(name)) if name == word);
        self.next += usize::from(found);
        found
    }

    fn sign(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Sign(found)) if *found == sign);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, sign: &str) -> Result<(), Wrong> {
        if self.sign(sign) { Ok(()) } else { Err((self.here(), format!("`{sign}` is missing here"))) }
    }

    fn any(&mut self) -> Result<Node, Wrong> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err((self.here(), format!("the condition is nested more than {DEEPEST} times")));
        }
        let mut left = self.all()?;
        while self.word("or") {
            left = joined(left, self.all()?, What::Or);
        }
        self.depth -= 1;
        Ok(left)
    }

    fn all(&mut self) -> Result<Node, Wrong> {
        let mut left = self.one()?;
        while self.word("and") {
            left = joined(left, self.one()?, What::And);
        }
        Ok(left)
    }

    fn one(&mut self) -> Result<Node, Wrong> {
        let mut nots = Vec::new();
        loop {
            let at = self.here();
            if !self.word("not") {
                break;
            }
            nots.push(at.start);
        }
        let mut node = self.comparison()?;
        while let Some(start) = nots.pop() {
            node = Node { at: start..node.at.end, what: What::Not(Box::new(node)) };
        }
        Ok(node)
    }

    fn comparison(&mut self) -> Result<Node, Wrong> {
        let left = self.operand()?;
        let relation = match self.peek() {
            Some(Token::Sign(sign)) => match *sign {
                "==" => Relation::Equal,
                "!=" => Relation::Unequal,
                "<" => Relation::Less,
                "<=" => Relation::AtMost,
                ">" => Relation::More,
                ">=" => Relation::AtLeast,
                "=" => return Err((self.here(), "`=` has no meaning here; equality is `==`".to_owned())),
                _ => return Ok(left),
            },
            Some(Token::Name(name)) if name == "contains" => Relation::Contains,
            _ => return Ok(left),
        };
        self.next += 1;
        Ok(joined(left, self.operand()?, |both| What::Compare(relation, both)))
    }

    fn operand(&mut self) -> Result<Node, Wrong> {
        let at = self.here();
        let Some(token) = self.peek() else {
            return Err((at, "something is missing at the end: a name, a number or a text".to_owned()));
        };
        self.next += 1;
        let what = match token {
            Token::Number(number) => What::Number(*number),
            Token::Text(text) => What::Text(text.clone()),
            Token::Sign("-") => match self.peek() {
                Some(Token::Number(number)) => {
                    self.next += 1;
                    What::Number(-number)
                }
                _ => return Err((at, "`-` stands before numbers only".to_owned())),
            },
            Token::Sign("(") => {
                let mut inner = self.any()?;
                self.expect(")")?;
                inner.at = at.start..self.last();
                return Ok(inner);
            }
            Token::Sign(sign) => {
                return Err((at, format!("`{sign}` cannot stand here: a name, a number or a text can")));
            }
            Token::Name(name) => match name.as_str() {
                "true" => What::Truth(true),
                "false" => What::Truth(false),
                "null" => What::Null,
                "and" | "or" | "contains" => {
                    return Err((at, format!("`{name}` stands between two things; the first is missing")));
                }
                "len" if self.sign("(") => {
                    let inner = self.any()?;
                    self.expect(")")?;
                    What::Len(Box::new(inner))
                }
                "differs" if self.sign("(") => What::Differs(self.kernels()?),
                _ => What::Path(self.path(name, at.clone())?),
            },
        };
        Ok(Node { what, at: at.start..self.last() })
    }

    /// End of what was read last.
    fn last(&self) -> usize {
        self.next.checked_sub(1).and_then(|last| self.tokens.get(last)).map_or(0, |(_, at)| at.end)
    }

    fn kernels(&mut self) -> Result<[String; 2], Wrong> {
        let mut name = || match self.peek() {
            Some(Token::Text(text)) => {
                self.next += 1;
                Ok(text.clone())
            }
            _ => Err((self.here(), "the names of two kernels stand here: differs(\"5.10\", \"6.12\")".to_owned())),
        };
        let first = name()?;
        self.expect(",")?;
        let mut name = || match self.peek() {
            Some(Token::Text(text)) => {
                self.next += 1;
                Ok(text.clone())
            }
            _ => Err((self.here(), "the name of the second kernel stands here".to_owned())),
        };
        let second = name()?;
        self.expect(")")?;
        Ok([first, second])
    }

    fn path(&mut self, name: &str, at: Range<usize>) -> Result<Vec<(Step, Range<usize>)>, Wrong> {
        let mut steps = vec![(Step::Member(name.to_owned()), at)];
        loop {
            if self.sign(".") {
                let at = self.here();
                let step = match self.peek() {
                    Some(Token::Name(name)) => Step::Member(name.clone()),
                    Some(Token::Number(number)) => Step::Position(position(*number, &at)?),
                    _ => return Err((at, "a name or a position is missing behind the dot".to_owned())),
                };
                self.next += 1;
                steps.push((step, at));
            } else if self.sign("[") {
                let at = self.here();
                let alone = |parser: &Self| matches!(parser.tokens.get(parser.next + 1), Some((Token::Sign("]"), _)));
                let step = match self.peek() {
                    Some(Token::Number(number)) if alone(self) => {
                        self.next += 1;
                        Step::Position(position(*number, &at)?)
                    }
                    Some(Token::Text(text)) if alone(self) => {
                        self.next += 1;
                        Step::Having(text.clone())
                    }
                    _ => Step::Where(self.any()?),
                };
                self.expect("]")?;
                steps.push((step, at.start..self.last() - 1));
            } else {
                return Ok(steps);
            }
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole and bounded, which is checked")]
fn position(number: f64, at: &Range<usize>) -> Result<usize, Wrong> {
    if number.fract() != 0.0 || number > 1e9 {
        return Err((at.clone(), "a position is a whole number, from 0".to_owned()));
    }
    Ok(number as usize)
}

fn joined(left: Node, right: Node, what: impl FnOnce(Box<[Node; 2]>) -> What) -> Node {
    let at = left.at.start..right.at.end;
    Node { what: what(Box::new([left, right])), at }
}
