//! The choice as it is shown before the work: a row for each layer, then what it promises beside one width everywhere.

use std::fmt;

use super::menu::shown;
use super::{BudgetPlan, DecisionReport, UniformReport};
use crate::host::table::{size, table};

impl fmt::Display for BudgetPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "widths within {}, each with its share of the KL predicted for round to nearest\n", shown(self.target))?;
        writeln!(f, "{}\n", self.layers())?;
        let optimal = if self.gap > 0.0 { format!("at most {:.2e} above the best", self.gap) } else { "the best".to_owned() };
        writeln!(f, "{}\n", self.compared(&optimal))?;
        self.left_out.iter().try_for_each(|why| writeln!(f, "left out: {why}\n"))
    }
}

impl BudgetPlan {
    /// `layer  qkv  %  o  %  …  bits`
    fn layers(&self) -> String {
        let mut header = vec!["layer".to_owned()];
        let first = self.decisions.first().map_or(0, |decision| decision.layer);
        for decision in self.decisions.iter().take_while(|decision| decision.layer == first) {
            header.extend([decision.linears.to_owned(), "%".to_owned()]);
        }
        header.push("bits".to_owned());
        let rows = self.decisions.chunk_by(|a, b| a.layer == b.layer).map(|layer| {
            let cells = layer.iter().flat_map(|decision| [decision.format.name().to_owned(), self.share(decision)]);
            let bits = layer.iter().map(|decision| decision.bits_per_weight * decision.elements as f64).sum::<f64>();
            let elements: u64 = layer.iter().map(|decision| decision.elements).sum();
            let bits = format!("{:.3}", bits / elements as f64);
            std::iter::once(layer[0].layer.to_string()).chain(cells).chain([bits]).collect()
        });
        let right: Vec<usize> = (0..header.len()).filter(|column| column % 2 == 0 || *column + 1 == header.len()).collect();
        let names: Vec<&str> = header.iter().map(String::as_str).collect();
        table(&names, &right, rows)
    }

    fn share(&self, decision: &DecisionReport) -> String {
        let share = if self.predicted_kl > 0.0 { 100.0 * decision.predicted_kl / self.predicted_kl } else { 0.0 };
        format!("{share:.1}")
    }

    fn compared(&self, optimal: &str) -> String {
        let row = |name: &str, bits: f64, bytes: u64, kl: f64, note: &str| {
            vec![name.to_owned(), format!("{bits:.4}"), size(bytes), format!("{kl:.5}"), note.to_owned()]
        };
        let chosen = row("chosen", self.bits_per_weight_linears, self.model_bytes, self.predicted_kl, optimal);
        let uniform = self.uniform.iter().map(|UniformReport { width, predicted_kl }| {
            let name = format!("{} everywhere", width.format.name());
            row(&name, width.bits_per_weight_linears, width.model_bytes, *predicted_kl, "")
        });
        table(&["widths", "bits/weight", "model", "predicted KL", ""], &[1, 2, 3], std::iter::once(chosen).chain(uniform))
    }
}
