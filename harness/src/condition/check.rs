//! Holds the names and comparisons of a condition against the shape of an observation.

use std::ops::Range;

use super::Wrong;
use super::parse::{Node, Relation, Step, What};
use super::shape::Shape;
use crate::scenario::hint::closest;

/// The whole condition over a document of that shape.
pub(super) fn check(node: &Node, root: &Shape) -> Result<(), Wrong> {
    if let What::Differs(_) = node.what {
        return Ok(());
    }
    shape_of(node, root).map(drop)
}

fn shape_of(node: &Node, root: &Shape) -> Result<Shape, Wrong> {
    match &node.what {
        What::Or(both) | What::And(both) => {
            both.iter().try_for_each(|one| shape_of(one, root).map(drop))?;
            Ok(Shape::Truth)
        }
        What::Not(inner) => shape_of(inner, root).map(|_| Shape::Truth),
        What::Compare(relation, both) => {
            let [left, right] = &**both;
            let shapes = [shape_of(left, root)?, shape_of(right, root)?];
            compare(*relation, both, &shapes)?;
            Ok(Shape::Truth)
        }
        What::Len(inner) => match shape_of(inner, root)? {
            Shape::Number | Shape::Truth => {
                Err((inner.at.clone(), "`len` counts lists, tables and characters; this is none".to_owned()))
            }
            _ => Ok(Shape::Number),
        },
        What::Differs(_) => Err((
            node.at.clone(),
            "`differs` compares two kernels and stands alone: it cannot be part of another condition".to_owned(),
        )),
        What::Number(_) => Ok(Shape::Number),
        What::Text(_) => Ok(Shape::Text),
        What::Truth(_) => Ok(Shape::Truth),
        What::Null => Ok(Shape::Any),
        What::Path(steps) => path(steps, root),
    }
}

fn compare(relation: Relation, nodes: &[Node; 2], shapes: &[Shape; 2]) -> Result<(), Wrong> {
    let wrong = |index: usize, message: &str| Err((nodes[index].at.clone(), message.to_owned()));
    match relation {
        Relation::Equal | Relation::Unequal => {
            let [left, right] = shapes;
            let differ = (*left == Shape::Text) != (*right == Shape::Text)
                || (*left == Shape::Truth) != (*right == Shape::Truth);
            if differ && *left != Shape::Any && *right != Shape::Any {
                return wrong(1, "these two are never equal: one is a text or a truth, the other is not");
            }
        }
        Relation::Less | Relation::AtMost | Relation::More | Relation::AtLeast => {
            for (index, shape) in shapes.iter().enumerate() {
                if !has_number(shape) {
                    return wrong(index, "this is not a number, and is compared with one");
                }
            }
        }
        Relation::Contains => {
            if matches!(shapes[0], Shape::Number | Shape::Truth) {
                return wrong(0, "`contains` asks a text, a list or a table");
            }
            if !matches!(shapes[1], Shape::Text | Shape::Number | Shape::Any) {
                return wrong(1, "`contains` looks for a text or a number");
            }
        }
    }
    Ok(())
}

/// Whether there is a number in it: see the module's rules.
fn has_number(shape: &Shape) -> bool {
    match shape {
        Shape::Any | Shape::Number | Shape::List(_) => true,
        Shape::Table(inner) => has_number(inner),
        Shape::Struct(members) => {
            members.get("packets") == Some(&Shape::Number) || members.values().all(|member| *member == Shape::Number)
        }
        Shape::Truth | Shape::Text => false,
    }
}

fn path(steps: &[(Step, Range<usize>)], root: &Shape) -> Result<Shape, Wrong> {
    let mut shape = root.clone();
    for (step, at) in steps {
        shape = match (step, shape) {
            (_, Shape::Any) => Shape::Any,
            (Step::Member(name), Shape::Struct(members)) => match members.get(name.as_str()) {
                Some(inner) => inner.clone(),
                None => return Err((at.clone(), unknown(name, members.keys().copied()))),
            },
            (Step::Member(_), Shape::Table(inner)) | (Step::Position(_), Shape::List(inner)) => *inner,
            (Step::Having(_), Shape::Table(inner)) => *inner,
            (Step::Having(_), Shape::List(inner)) => Shape::List(inner),
            (Step::Where(condition), Shape::List(inner)) => {
                shape_of(condition, &inner)?;
                Shape::List(inner)
            }
            (Step::Member(name), Shape::List(inner)) => {
                let message = match &*inner {
                    Shape::Struct(members) if members.contains_key(name.as_str()) => {
                        format!(
                            "each row of the list has a `{name}` of its own: choose one by [0], or rows by [{name} == ...]"
                        )
                    }
                    _ => format!("a list has no `{name}`: choose a row by its position"),
                };
                return Err((at.clone(), message));
            }
            (Step::Member(name), _) => {
                return Err((at.clone(), format!("there is nothing in it to be called `{name}`")));
            }
            (Step::Position(_), _) => return Err((at.clone(), "only lists have positions".to_owned())),
            (Step::Having(_) | Step::Where(_), _) => {
                return Err((at.clone(), "only lists and tables are chosen from by brackets".to_owned()));
            }
        };
    }
    Ok(shape)
}

fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let names = known.clone().collect::<Vec<_>>().join(", ");
    match closest(name, known) {
        Some(meant) => format!("unknown name `{name}`, did you mean `{meant}`? there are {names}"),
        None => format!("unknown name `{name}`; there are {names}"),
    }
}
