"""Element-wise work in the kernel before it, and a convolution's parts each with work of their own."""

from tests.compiler.passes.kernels import check_numbers, lines, planned, source

LAYERS = ("merge_sibling_convs", "choose_layout", "choose_algorithm", "group_independent")


def test_a_chain_is_one_kernel_and_without_the_pass_each_op_is_one(tmp_path):
    net = source(tmp_path, "  output y = x -> conv(8, 3x3) -> relu -> tanh")
    assert lines(planned(net, off=LAYERS)[0]) == ["conv relu tanh"]
    assert lines(planned(net, off=(*LAYERS, "fuse_elementwise"))[0]) == ["conv", "relu", "tanh"]
    check_numbers(net)
    check_numbers(net, off=("fuse_elementwise",))


def test_a_sum_joins_the_later_of_its_operands(tmp_path):
    net = source(tmp_path, "  a = x -> conv(8, 3x3, pad = same)\n  b = a -> conv(8, 3x3, pad = same) -> relu\n  output y = a + b -> relu")
    assert lines(planned(net, off=LAYERS)[0]) == ["conv", "conv relu add relu"]
    check_numbers(net)


def test_parts_of_a_convolution_go_their_own_ways(tmp_path):
    """Two slices with other work behind them, one of which a concat joins: one kernel, and no whole in memory."""
    net = source(tmp_path, """  w = x -> conv(24)
  a = w -> slice(channel, 0, 8) -> relu
  b = w -> slice(channel, 8, 24) -> tanh
  c = b -> conv(8, 3x3, pad = same)
  output y = concat(a, c)""")
    graph, _ = planned(net, off=("choose_algorithm", "group_independent"))
    assert sorted(lines(graph)) == ["conv", "conv slice relu slice tanh"]
    assert {place.root for place in graph.places.values()} == set(graph.outputs.values())
    check_numbers(net)


def test_a_part_that_two_parts_make_together_is_no_tail(tmp_path):
    net = source(tmp_path, """  w = x -> conv(16)
  a = w -> slice(channel, 0, 8)
  b = w -> slice(channel, 8, 16)
  output y = a * b""")
    assert lines(planned(net)[0]) == ["conv slice slice", "mul"]
    check_numbers(net)


def test_slices_that_overlap_or_leave_a_gap_are_no_parts(tmp_path):
    for first, second in (((0, 8), (4, 16)), ((0, 4), (8, 16))):
        net = source(tmp_path, f"""  w = x -> conv(16)
  output a = w -> slice(channel, {first[0]}, {first[1]}) -> relu
  output b = w -> slice(channel, {second[0]}, {second[1]}) -> tanh""")
        assert lines(planned(net)[0])[0] == "conv"
        check_numbers(net)
