use crate::fault::Fault;

/// Why widths cannot be chosen as asked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BudgetRefusal {
    #[error(
        "target {target}: the least that this model can have is {least}, with {format} wherever no override says otherwise; ask for more"
    )]
    TooSmall { target: String, least: String, format: &'static str },
    #[error(
        "target {target}: everything beside the decoder's linears (embedding, norms, graph) takes {rest} already; ask for more, \
         or store the embedding in fewer bits (--embedding int8)"
    )]
    BelowTheRest { target: String, rest: String },
    #[error("target {target}: the unquantized model has {most}, so there is nothing to choose; leave the target out (--bits 16)")]
    TooLarge { target: String, most: String },
    #[error(
        "recipe: [budget] chooses among integer widths, and [weights] format is {format}; leave the budget out, or choose int4"
    )]
    Codebook { format: &'static str },
    #[error("the logits are not finite with {linears} of layer {layer} in 3 bits; leave these in f16 with an override")]
    NotFinite { layer: usize, linears: String },
    #[error("the unquantized model's own logits are not finite on the calibration set; check the checkpoint")]
    ReferenceNotFinite,
}

impl BudgetRefusal {
    /// A target that cannot be met is the input's fault, and so are weights that compute no numbers.
    pub fn fault(&self) -> Fault {
        Fault::BadInput
    }
}
