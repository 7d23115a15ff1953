"""Halos: who gets one, how wide, and that borders come out right whatever lay in the arena before."""

from tests.compiler.passes.kernels import check_numbers, halos, planned, source


def test_the_widest_padding_of_all_readers(tmp_path):
    net = source(tmp_path, """  a = x -> conv(8) -> relu
  b = a -> conv(8, 3x3, pad = same)
  c = a -> conv(8, 5x5, pad = [[2, 1], [0, 3]])
  d = a -> conv(8)
  output y = b -> relu
  output z = c -> relu
  output w = d -> relu""")
    graph, steps = planned(net, off=("merge_sibling_convs", "collapse_linear_chains", "choose_algorithm"))
    assert list(halos(graph).values()) == [(2, 1, 1, 3)]
    assert [r.taken for r in steps["eliminate_padding"]] == [True]
    check_numbers(net)


def test_a_concat_has_one_around_all_its_parts(tmp_path):
    net = source(tmp_path, """  a = x -> conv(8, 3x3, pad = same) -> relu
  b = x -> conv(16) -> tanh
  output y = concat(a, b) -> conv(8, 3x3, pad = same) -> relu""")
    graph, _ = planned(net)
    (root,) = halos(graph)
    assert graph[root].op == "concat" and {p.root for p in graph.places.values()} == {root}
    check_numbers(net)


def test_inputs_and_unblocked_tensors_have_none(tmp_path):
    net = source(tmp_path, "  output y = x -> conv(12, 3x3, pad = same) -> relu -> conv(8, 3x3, pad = same)")
    assert not halos(planned(net)[0])
    check_numbers(net)


def test_zeros_are_written_in_every_run(tmp_path):
    """The maps of the two halves share memory of the arena, so each halo lies where values of the other lay."""
    net = source(tmp_path, "  output y = x" + "".join(
        f" -> conv({ch}, {k}x{k}, pad = same) -> tanh" for ch, k in ((16, 3), (8, 5), (24, 3), (8, 1), (16, 5), (8, 3))))
    assert len(halos(planned(net, off=("choose_algorithm",))[0])) == 4
    check_numbers(net, off=("choose_algorithm",), batches=(1, 3, 1, 2))
    check_numbers(net, batches=(1, 3, 1, 2))
