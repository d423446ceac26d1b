"""A zoo of tiny PyTorch modules: what people put on biosignals, and what can never be streamed."""

from collections.abc import Callable
from functools import partial

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402 - torch is optional
from torch.nn import functional as F  # noqa: E402

Shape = tuple[int | str, ...]
Entry = tuple[Callable[[], nn.Module], Shape]

FEATURES: Shape = ("batch", "time", 3)
CHANNELS: Shape = ("batch", 2, "time")


class Compute(nn.Module):
    """A function of the input and of the layers it is given."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


class Chain(nn.Sequential):
    """Layers one after another; of a recurrent layer only the sequence goes on."""

    def forward(self, x):
        for layer in self:
            x = layer(x)
            x = x[0] if isinstance(x, tuple) else x
        return x


class Transposed(nn.Module):
    """A layer over (batch, channels, time) for values (batch, time, channels), or the other way round."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        y = self.layer(x.transpose(1, 2))
        return (y[0] if isinstance(y, tuple) else y).transpose(1, 2)


class Causal(nn.Module):
    """A convolution that sees the past only: zeros go before the start."""

    def __init__(self, inputs, outputs, kernel, dilation=1, stride=1, groups=1, bias=True):
        super().__init__()
        self.before = max((kernel - 1) * dilation + 1 - stride, 0)
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, dilation=dilation, groups=groups, bias=bias)

    def forward(self, x):
        return self.conv(F.pad(x, (self.before, 0)))


class Chomp(nn.Module):
    """A convolution padded on both sides, the end cut off."""

    def __init__(self, inputs, outputs, kernel, dilation):
        super().__init__()
        self.extra = (kernel - 1) * dilation
        self.conv = nn.Conv1d(inputs, outputs, kernel, padding=self.extra, dilation=dilation)

    def forward(self, x):
        return self.conv(x)[:, :, : -self.extra]


class Residual(nn.Module):
    """What a body makes of x, added to x; x goes through `skip` where the widths differ."""

    def __init__(self, body, skip=None):
        super().__init__()
        self.body, self.skip = body, skip or nn.Identity()

    def forward(self, x):
        return torch.relu(self.body(x) + self.skip(x))


class Attention(nn.Module):
    """Scaled dot-product attention; each output sees itself and the `window` - 1 before it, all before it if None."""

    def __init__(self, width, heads, window):
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = (y.reshape(b, t, self.heads, d // self.heads).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed(t, self.window) if self.window else None)
        return self.out(y.transpose(1, 2).reshape(b, t, d))


def allowed(length, window):
    """Which keys (columns) a query (row) may see: itself and the `window` - 1 before it."""
    place = torch.arange(length)
    distance = place[:, None] - place[None, :]
    return (distance >= 0) & (distance < window)


class Encoder(nn.Module):
    """torch's own encoder layer under a window."""

    def __init__(self, width, heads, window, **options):
        super().__init__()
        self.window = window
        self.layer = nn.TransformerEncoderLayer(width, heads, 2 * width, batch_first=True, **options)

    def forward(self, x):
        return self.layer(x, src_mask=~allowed(x.shape[1], self.window))


class Leads(nn.Module):
    """Two leads, a tensor each."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(2, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, lead_i, lead_ii):
        return self.head(self.lstm(torch.cat([lead_i, lead_ii], -1))[0])


class Beats(nn.Module):
    """Convolution, norm and LSTM with named heads."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.lstm = Causal(2, 6, 4, stride=2), nn.LayerNorm(6), nn.LSTM(6, 8, batch_first=True)
        self.beat, self.kind = nn.Linear(8, 1), nn.Linear(8, 3)

    def forward(self, x):
        y, _ = self.lstm(self.norm(torch.relu(self.conv(x)).transpose(1, 2)))
        return {"beat": torch.sigmoid(self.beat(y)), "class": torch.softmax(self.kind(y), -1)}


class Forecaster(nn.Module):
    """The sequence so far, and one forecast from the last state of both layers."""

    def __init__(self):
        super().__init__()
        self.lstm, self.step, self.ahead = nn.LSTM(3, 6, 2, batch_first=True), nn.Linear(6, 3), nn.Linear(12, 5)

    def forward(self, x):
        y, (h, _) = self.lstm(x)
        return x + self.step(y), self.ahead(torch.cat([h[0], h[1]], -1))


class Stateful(nn.Module):
    """A GRU that is given its first state."""

    def __init__(self):
        super().__init__()
        self.start, self.gru = nn.Parameter(torch.randn(2, 1, 5)), nn.GRU(3, 5, 2, batch_first=True)

    def forward(self, x):
        return self.gru(x, self.start.expand(-1, x.shape[0], -1).contiguous())[0]


class Narrowing(nn.LSTM):
    """An author's own LSTM, which gives the sequence only."""

    def forward(self, x):
        return super().forward(x)[0]


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """The same weights in each run; running statistics that are not those of a new layer."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        module = make().eval()
        for name, tensor in module.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    return module


def rnn(kind: type, layers: int = 1, head: nn.Module | None = None, **options) -> nn.Module:
    return Chain(kind(3, 8, layers, batch_first=True, **options), head or nn.Linear(8, 2))


def over(function: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """An LSTM, a function of its sequence, and a head."""
    layers = {"lstm": nn.LSTM(3, 6, batch_first=True), "head": nn.Linear(6, 2)}
    return Compute(lambda m, x: m.head(function(m.lstm(x)[0])), **layers)


def tcn() -> nn.Module:
    skips = (nn.Conv1d(2, 6, 1), None, None)
    blocks = [
        Residual(nn.Sequential(Causal(width, 6, 3, d), nn.ReLU(), Causal(6, 6, 3, d)), skip)
        for width, d, skip in zip((2, 6, 6), (1, 2, 4), skips, strict=True)
    ]
    return nn.Sequential(*blocks, nn.Conv1d(6, 2, 1))


def chomped() -> nn.Module:
    return nn.Sequential(Chomp(2, 6, 3, 1), nn.ReLU(), Chomp(6, 6, 3, 2), nn.ReLU(), Chomp(6, 2, 3, 4))


def symmetric() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 6, 5, padding=2), nn.ReLU(), nn.Conv1d(6, 2, 5, padding="same", dilation=2))


def cnn_lstm_batch_norm() -> nn.Module:
    front = [Causal(2, 6, 5, bias=False), nn.BatchNorm1d(6), nn.ReLU(), Causal(6, 6, 4, stride=2), nn.BatchNorm1d(6)]
    return Chain(*front, Transposed(rnn_of(6)), nn.Conv1d(5, 2, 1))


def rnn_of(width: int) -> nn.Module:
    return nn.LSTM(width, 5, batch_first=True)


def separable() -> nn.Module:
    return nn.Sequential(
        Causal(2, 4, 5, groups=2), nn.Conv1d(4, 6, 1), nn.ELU(), Causal(6, 6, 3, 2, groups=6), nn.Conv1d(6, 2, 1)
    )


def unequal_delays() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 4, 1), Residual(nn.Conv1d(4, 4, 7, padding=3)), nn.Conv1d(4, 2, 1))


def branches() -> nn.Module:
    layers = {
        "a": Causal(2, 3, 3),
        "b": nn.Conv1d(2, 3, 5, padding=2),
        "c": Causal(2, 3, 7),
        "head": nn.Conv1d(9, 2, 1),
    }
    return Compute(lambda m, x: m.head(torch.relu(torch.cat([m.a(x), m.b(x), m.c(x)], 1))), **layers)


def max_pooled() -> nn.Module:
    layers = {"conv": Causal(2, 4, 3), "pool": nn.MaxPool1d(3, 1), "halve": nn.MaxPool1d(2)}
    return Compute(lambda m, x: m.halve(m.pool(F.pad(m.conv(x), (2, 0), value=-1e9))), **layers)


def convolution_2d() -> nn.Module:
    """Over (time, features): kernel 5 in time, 3 in features."""
    layers = {"conv": nn.Conv2d(1, 4, (5, 3), padding=(0, 1)), "head": nn.Linear(12, 2)}

    def forward(m, x):
        y = torch.relu(m.conv(F.pad(x[:, None], (0, 0, 4, 0))))
        return m.head(y.transpose(1, 2).flatten(2))

    return Compute(forward, **layers)


def valid() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 6, 5), nn.ReLU(), nn.Conv1d(6, 2, 3))


def average_pooled() -> nn.Module:
    return nn.Sequential(Causal(2, 4, 3), nn.AvgPool1d(4, 2), nn.Conv1d(4, 2, 1))


def kernel_below_stride() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 4, 2, stride=3), nn.ReLU(), nn.Conv1d(4, 2, 1))


def normed(norm: nn.Module) -> nn.Module:
    return nn.Sequential(Causal(2, 4, 3), norm, nn.Conv1d(4, 2, 1))


def normal_over_time(y: torch.Tensor) -> torch.Tensor:
    return (y - y.mean(1, True)) / (y.var(1, keepdim=True) + 1e-5).sqrt()


def autoencoder() -> nn.Module:
    return Chain(nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 2), nn.LSTM(2, 8, batch_first=True), nn.Linear(8, 3))


def mixed() -> nn.Module:
    front = nn.Sequential(Causal(2, 8, 4, stride=2), nn.ReLU(), Causal(8, 8, 3))
    return Chain(front, Transposed(Chain(Attention(8, 2, 6), nn.GRU(8, 6, batch_first=True), nn.Linear(6, 2))))


def attention(window: int | None) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), Attention(8, 2, window), nn.Linear(8, 2))


def encoder(**options) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), Encoder(8, 2, 5, **options), nn.Linear(8, 2))


def entry(shape: Shape, make: Callable[..., nn.Module], *args, **options) -> Entry:
    return partial(seeded, partial(make, *args, **options)), shape


STREAMABLE: dict[str, Entry] = {
    "rnn_tanh": entry(FEATURES, rnn, nn.RNN),
    "rnn_relu": entry(FEATURES, rnn, nn.RNN, nonlinearity="relu"),
    "lstm": entry(FEATURES, rnn, nn.LSTM),
    "lstm_2": entry(FEATURES, rnn, nn.LSTM, 2, dropout=0.3),
    "lstm_3": entry(FEATURES, rnn, nn.LSTM, 3),
    "lstm_without_bias": entry(FEATURES, rnn, nn.LSTM, bias=False),
    "lstm_time_first": entry(("time", "batch", 3), lambda: Chain(nn.LSTM(3, 8), nn.Linear(8, 2))),
    "lstm_one_lead": entry(("batch", "time"), lambda: Compute(lambda m, x: m.lstm(x[..., None])[0], lstm=rnn_of(1))),
    "lstm_author": entry(FEATURES, lambda: nn.Sequential(Narrowing(3, 6, batch_first=True), nn.Linear(6, 2))),
    "lstm_last": entry(FEATURES, over, lambda y: y[:, -1]),
    "lstm_mean": entry(FEATURES, over, lambda y: y.mean(1)),
    "lstm_max": entry(FEATURES, over, lambda y: y.amax(1)),
    "gru": entry(FEATURES, rnn, nn.GRU),
    "gru_2": entry(FEATURES, rnn, nn.GRU, 2),
    "gru_first_state": entry(FEATURES, Stateful),
    "cnn_norm_lstm_heads": entry(CHANNELS, Beats),
    "cnn_lstm_batch_norm": entry(CHANNELS, cnn_lstm_batch_norm),
    "tcn": entry(CHANNELS, tcn),
    "tcn_chomp": entry(CHANNELS, chomped),
    "conv_same": entry(CHANNELS, symmetric),
    "conv_valid": entry(CHANNELS, valid),
    "conv_separable": entry(CHANNELS, separable),
    "conv_unequal_delays": entry(CHANNELS, unequal_delays),
    "conv_branches": entry(CHANNELS, branches),
    "max_pool": entry(CHANNELS, max_pooled),
    "average_pool": entry(CHANNELS, average_pooled),
    "kernel_below_stride": entry(CHANNELS, kernel_below_stride),
    "conv_2d": entry(FEATURES, convolution_2d),
    "autoencoder": entry(FEATURES, autoencoder),
    "forecaster": entry(FEATURES, Forecaster),
    "attention_window": entry(FEATURES, attention, 5),
    "encoder_window": entry(FEATURES, encoder),
    "encoder_norm_first": entry(FEATURES, encoder, norm_first=True, activation="gelu"),
    "conv_attention_gru": entry(CHANNELS, mixed),
    "two_leads": entry(("batch", "time", 1), Leads),
    "cumsum": entry(FEATURES, over, lambda y: y + 0.01 * y.cumsum(1)),
}
"""Modules that can be streamed exactly: name to factory and input shape."""


def causal_attention() -> nn.Module:
    layers = {"qkv": nn.Linear(3, 12), "out": nn.Linear(4, 2)}

    def forward(m, x):
        q, k, v = m.qkv(x).chunk(3, -1)
        return m.out(F.scaled_dot_product_attention(q, k, v, is_causal=True))

    return Compute(forward, **layers)


def positions() -> nn.Module:
    """Learned positions, for at most 512 samples."""
    module = over(lambda y: y)
    module.place = nn.Parameter(torch.randn(512, 3))
    module.function = lambda m, x: m.head(m.lstm(x + m.place[: x.shape[1]])[0])
    return module


def clock(y: torch.Tensor) -> torch.Tensor:
    """An embedding of the absolute time added."""
    t = torch.arange(y.shape[1], dtype=y.dtype)[:, None]
    return y + torch.cat([torch.sin(0.1 * t), torch.cos(0.1 * t)], -1).repeat(1, 3)


UNSTREAMABLE: dict[str, Entry] = {
    "lstm_bidirectional": entry(FEATURES, rnn, nn.LSTM, head=nn.Linear(16, 2), bidirectional=True),
    "gru_bidirectional": entry(FEATURES, rnn, nn.GRU, 2, head=nn.Linear(16, 2), bidirectional=True),
    "flip": entry(FEATURES, over, lambda y: y.flip(1)),
    "softmax_over_time": entry(FEATURES, over, lambda y: y * y.softmax(1)),
    "layer_norm_over_time": entry(FEATURES, over, normal_over_time),
    "instance_norm": entry(CHANNELS, lambda: normed(nn.InstanceNorm1d(4))),
    "group_norm": entry(CHANNELS, lambda: normed(nn.GroupNorm(2, 4))),
    "attention_unmasked": entry(FEATURES, attention, None),
    "attention_unbounded": entry(FEATURES, causal_attention),
    "learned_positions": entry(FEATURES, positions),
    "mean_subtracted": entry(FEATURES, over, lambda y: y - y.mean(1, keepdim=True)),
    "fft": entry(FEATURES, over, lambda y: torch.view_as_real(torch.fft.rfft(y, dim=1)).square().sum(-1)),
    "sort": entry(FEATURES, over, lambda y: y.sort(1).values),
    "maximum_divided": entry(FEATURES, over, lambda y: y / (y.abs().amax(1, keepdim=True) + 1e-3)),
    "cumsum_reversed": entry(FEATURES, over, lambda y: y.flip(1).cumsum(1).flip(1)),
    "absolute_time": entry(FEATURES, over, clock),
}
"""Modules whose first output depends on the last sample, or on the place in the recording: to be refused by name."""
