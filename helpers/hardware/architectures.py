"""The architectures that the planner knows, written as tapes: BERT, GPT-2 and Llama (SmolLM2 is
one) as transformers 5 computes them, each under the heads that the course fine-tunes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from helpers.errors import InvalidValue
from helpers.hardware.tape import WIDTHS, Tape, Value

LORA_TARGETS = {  # the default targets of peft, and so of helpers.models.lora
    "bert": ("query", "value"),
    "gpt2": ("c_attn",),
    "llama": ("q_proj", "v_proj"),
}
HEADS = {
    "bert": ("classifier", "tokens", "questions", "masked-lm"),
    "gpt2": ("causal-lm",),
    "llama": ("causal-lm",),
}


@dataclass
class Writer:
    """Writes the tape of one model on ``batch_size`` texts of ``length`` tokens.

    config: transformers' configuration. head, labels, rank (of LoRA), eager, padded, checkpointing:
    as in ``hardware.plan``. dropout, attention_dropout: probabilities.
    """

    tape: Tape
    config: Any
    batch_size: int
    length: int
    head: str
    labels: int = 2
    rank: int | None = None
    eager: bool = False
    padded: bool = False
    checkpointing: bool = False
    dropout: float = 0.0
    attention_dropout: float = 0.0
    mask: Value | None = field(default=None, init=False)

    @property
    def family(self) -> str:
        return self.config.model_type

    @property
    def rows(self) -> int:
        return self.batch_size * self.length

    @property
    def full(self) -> bool:
        """Whether all weights are trained, not an adapter alone."""
        return self.rank is None

    def write(self) -> Tape:
        """The whole forward pass, loss included."""
        {"bert": self._bert, "gpt2": self._gpt2, "llama": self._llama}[self.family]()
        return self.tape

    def _project(self, x: Value, name: str, into: int, out: int, *, bias: bool = True) -> Value:
        """A linear layer of a block, with an adapter where LoRA puts one."""
        result = self.tape.linear(
            x, f"{self.tape.place}.{name}", into, out, bias=bias, trained=self.full
        )
        if self.full or name not in LORA_TARGETS[self.family]:
            return result
        if self.rank > min(into, out):
            raise InvalidValue(
                f"lora_rank is {self.rank}, but {name} is {out} x {into}: give 1 to "
                f"{min(into, out)}; 4 to 16 is usual."
            )
        options = {"bias": False, "trained": True, "width": WIDTHS["fp32"]}
        prefix = f"{self.tape.place}.{name}.lora"
        down = self.tape.linear(x, f"{prefix}_A", into, self.rank, **options)
        up = self.tape.scale(self.tape.linear(down, f"{prefix}_B", self.rank, out, **options))
        return self.tape.cast(self.tape.add(result, up), result.width)

    def _attention(
        self, query: Value, key: Value, value: Value, *, heads: int, groups: int
    ) -> Value:
        """heads: of the queries. groups: of keys and values (grouped-query attention)."""
        tape, scores = self.tape, self.batch_size * heads * self.length**2
        plain = self.eager or (self.attention_dropout > 0 and not tape.cuda)
        whole = self._caches  # keys and values lie in memory as the products want them
        if groups < heads and (plain or self.mask):
            key, value = self._copies(key, value, times=heads // groups)
            whole = True
        inner = query.count // self.batch_size // self.length // heads
        if not plain:
            beside = 4 * self.batch_size * heads * self.length  # log of the softmax's sum
            if self.mask:
                beside += query.width * self.batch_size * self.length**2
            flops = 2 * 2 * scores * inner
            return tape.record(
                [query, key, value], [query.count], query.width,
                keeps=[query.storage, key.storage, value.storage], keeps_output=True,
                extra=beside, flops=flops, backward_flops=2 * flops,
            )[0]  # fmt: skip
        (query,) = self._copies(query)
        if not whole:
            key, value = self._copies(key, value)
        weights = tape.scale(tape.matmul(query, key, scores, inner))
        if self.mask:
            weights = tape.add(weights, self.mask)
        if self.family == "llama":
            weights = tape.cast(tape.softmax(tape.cast(weights, 4)), query.width)
        else:
            weights = tape.softmax(weights)
        weights = tape.dropout(weights, self.attention_dropout)
        mixed = tape.matmul(weights, value, query.count, self.length)
        return tape.record([mixed], [mixed.count], mixed.width, passes=True)[
            0
        ]  # heads side by side

    def _masks(self) -> None:
        """The mask of all layers, where the attention function is given one."""
        if self.eager or self.padded:
            width = self.tape.weight_width if self.eager else 1
            (self.mask,) = self.tape.record((), [self.batch_size * self.length**2], width)

    def _layers(self, x: Value, count: int, layer: Callable[[Value], Value]) -> Value:
        for number in range(1, count + 1):
            with self.tape.at(f"layer {number}", checkpoint=self.checkpointing):
                x = layer(x)
        return x

    def _bert(self) -> None:
        tape, c, full = self.tape, self.config, self.full
        width = c.hidden_size
        words = tape.embedding(self.rows, "embeddings.word", c.vocab_size, width, full)
        types = tape.embedding(self.rows, "embeddings.type", c.type_vocab_size, width, full)
        x = tape.add(words, types)
        places = c.max_position_embeddings
        x = tape.add(x, tape.embedding(self.length, "embeddings.position", places, width, full))
        x = tape.dropout(tape.norm(x, "embeddings.norm", width, trained=full), self.dropout)
        self._masks()
        x = self._layers(x, c.num_hidden_layers, self._bert_layer)
        with tape.at("head"):
            self._bert_head(x)

    def _bert_layer(self, x: Value) -> Value:
        tape, c, place = self.tape, self.config, self.tape.place
        width = c.hidden_size
        query, key, value = (self._project(x, n, width, width) for n in ("query", "key", "value"))
        heads = c.num_attention_heads
        mixed = self._attention(query, key, value, heads=heads, groups=heads)
        out = tape.dropout(self._project(mixed, "attention_output", width, width), self.dropout)
        x = tape.norm(tape.add(out, x), f"{place}.attention_norm", width, trained=self.full)
        inner = self._project(x, "intermediate", width, c.intermediate_size)
        inner = tape.activation(inner, c.hidden_act)
        out = self._project(inner, "output", c.intermediate_size, width)
        out = tape.dropout(out, self.dropout)
        return tape.norm(tape.add(out, x), f"{place}.norm", width, trained=self.full)

    def _bert_head(self, x: Value) -> None:
        tape, c, full = self.tape, self.config, self.full
        width = c.hidden_size
        if self.head == "classifier":
            (first,) = tape.record([x], [self.batch_size * width], x.width, view_of=x)
            pooled = tape.linear(first, "head.pooler", width, width, bias=True, trained=full)
            x = tape.dropout(tape.tanh(pooled), self.dropout)
        else:
            x = tape.dropout(x, self.dropout) if self.head == "tokens" else x
        if self.head == "masked-lm":
            x = tape.linear(x, "head.dense", width, width, bias=True, trained=full)
            x = tape.norm(tape.activation(x, c.hidden_act), "head.norm", width, trained=full)
            tied = "embeddings.word" if c.tie_word_embeddings else None
            return self._token_loss(x, width, c.vocab_size, tied=tied, bias=True)
        outputs = 2 if self.head == "questions" else self.labels
        if not full and self.head == "classifier":  # peft keeps the head it found beside its copy
            for part, count in (("weight", width * outputs), ("bias", outputs)):
                tape.weight(f"head.classifier.{part} (as found)", count, False)
        trained = full or self.head in ("classifier", "tokens")
        logits = tape.linear(x, "head.classifier", width, outputs, bias=True, trained=trained)
        self._cross_entropy(logits)

    def _token_loss(
        self, x: Value, width: int, vocabulary: int, *, tied: str | None, bias: bool
    ) -> None:
        logits = self.tape.linear(
            x, "head.lm", width, vocabulary, bias=bias, trained=self.full, tied=tied
        )
        with self.tape.at("loss"):
            self._cross_entropy(logits)

    def _cross_entropy(self, logits: Value) -> None:
        """In float32; the logits are the caller's, who holds them to the end of the step."""
        tape = self.tape
        if tape.autocast:  # what autocast's caller gets is float32 again
            logits = tape.cast(logits, 4)
        tape.outputs.add(logits.storage)
        logits = tape.cast(logits, 4)
        (logs,) = tape.record([logits], [logits.count], 4, keeps_output=True)
        tape.record([logs], [1], 4)

    def _gpt2(self) -> None:
        tape, c, full = self.tape, self.config, self.full
        width = c.n_embd
        x = tape.embedding(self.rows, "embeddings.word", c.vocab_size, width, full)
        x = tape.add(
            x, tape.embedding(self.length, "embeddings.position", c.n_positions, width, full)
        )
        x = tape.dropout(x, self.dropout)
        self._masks()
        x = self._layers(x, c.n_layer, self._gpt2_layer)
        with tape.at("head"):
            x = tape.norm(x, "head.norm", width, trained=full)
            tied = "embeddings.word" if c.tie_word_embeddings else None
            self._token_loss(x, width, c.vocab_size, tied=tied, bias=False)

    def _gpt2_layer(self, x: Value) -> Value:
        tape, c, place = self.tape, self.config, self.tape.place
        width, inner = c.n_embd, c.n_inner or 4 * c.n_embd
        normed = tape.norm(x, f"{place}.norm_1", width, trained=self.full)
        joint = self._project(normed, "c_attn", width, 3 * width)
        query, key, value = tape.record([joint], [joint.count // 3] * 3, joint.width, view_of=joint)
        key, value = self._cache(key, value)
        heads = c.n_head
        mixed = self._attention(query, key, value, heads=heads, groups=heads)
        x = tape.add(tape.dropout(self._project(mixed, "c_proj", width, width), self.dropout), x)
        normed = tape.norm(x, f"{place}.norm_2", width, trained=self.full)
        hidden = tape.activation(self._project(normed, "c_fc", width, inner), c.activation_function)
        out = tape.dropout(self._project(hidden, "mlp_proj", inner, width), self.dropout)
        return tape.add(x, out)

    @property
    def _caches(self) -> bool:
        """Whether keys and values go through transformers' cache, as they do in training too."""
        return self.family != "bert" and self.config.use_cache and not self.checkpointing

    def _cache(self, key: Value, value: Value) -> list[Value]:
        """The cache's copies, which the caller gets with the logits."""
        if not self._caches:
            return [key, value]
        copies = self._copies(key, value)
        self.tape.outputs.update(copy.storage for copy in copies)
        return copies

    def _copies(self, *values: Value, times: int = 1) -> list[Value]:
        """The same numbers laid out anew, each ``times`` times."""
        return [self.tape.record([v], [times * v.count], v.width, passes=True)[0] for v in values]

    def _llama(self) -> None:
        tape, c = self.tape, self.config
        width = c.hidden_size
        x = tape.embedding(self.rows, "embeddings.word", c.vocab_size, width, self.full)
        self._masks()
        x = self._layers(x, c.num_hidden_layers, self._llama_layer)
        with tape.at("head"):
            x = tape.rms_norm(x, "head.norm", width, trained=self.full)
            tied = "embeddings.word" if c.tie_word_embeddings else None
            self._token_loss(x, width, c.vocab_size, tied=tied, bias=False)

    def _llama_layer(self, x: Value) -> Value:
        tape, c, place = self.tape, self.config, self.tape.place
        width, inner, size = c.hidden_size, c.intermediate_size, c.head_dim
        heads, groups = c.num_attention_heads, c.num_key_value_heads
        bias = {"bias": c.attention_bias}
        normed = tape.rms_norm(x, f"{place}.norm_1", width, trained=self.full)
        query = self._project(normed, "q_proj", width, heads * size, **bias)
        key = self._project(normed, "k_proj", width, groups * size, **bias)
        value = self._project(normed, "v_proj", width, groups * size, **bias)
        key, value = self._cache(self._rotate(key), value)
        query = self._rotate(query)
        mixed = self._attention(query, key, value, heads=heads, groups=groups)
        x = tape.add(self._project(mixed, "o_proj", heads * size, width, **bias), x)
        normed = tape.rms_norm(x, f"{place}.norm_2", width, trained=self.full)
        bias = {"bias": c.mlp_bias}
        gate = tape.activation(
            self._project(normed, "gate_proj", width, inner, **bias), c.hidden_act
        )
        product = tape.multiply(gate, self._project(normed, "up_proj", width, inner, **bias))
        return tape.add(x, self._project(product, "down_proj", inner, width, **bias))

    def _rotate(self, x: Value) -> Value:
        """Rotary positions: x cos + rotated x sin."""
        turned = self.tape.scale(x)
        return self.tape.add(self.tape.scale(x), self.tape.scale(turned))
