# Types become nodes, once, when a component is loaded.

class Builder:
    """Turns types into nodes, numbering the resource types it meets."""

    def __init__(self):
        self.numbers = {}          # resource -> number
        self.nodes = {}            # id of a type -> (type, node): equal types are mostly the same object

    def number(self, resource):
        return self.numbers.setdefault(resource, len(self.numbers))

    def owns(self, types):
        return any(_mentions(type_, wit.Own) for type_ in types)

    def borrows(self, types):
        return any(_mentions(type_, wit.Borrow) for type_ in types)

    def build(self, type_):
        found = self.nodes.get(id(type_))
        if found is None:
            found = self.nodes[id(type_)] = (type_, self._build(type_))
        return found[1]

    def _build(self, type_):
        return _BUILDERS[type(type_)](self, type_)

    def _payload(self, type_):
        return None if type_ is None else self.build(type_)

    def _primitive(self, type_):
        return _PRIMITIVES[type_.name]()

    def _list(self, type_):
        if type_.element == wit.Primitive("u8"):
            return Bytes()
        return ListOf(self.build(type_.element))

    def _record(self, type_):
        return Fields([self.build(part) for _, part in type_.fields])

    def _tuple(self, type_):
        return Fields([self.build(part) for part in type_.elements])

    def _variant(self, type_):
        names = tuple([name for name, _ in type_.cases])
        payloads = [self._payload(payload) for _, payload in type_.cases]
        return VariantOf(names, payloads, wit.discriminant_size(len(names)))

    def _enum(self, type_):
        names = type_.cases
        return EnumOf(names, [None] * len(names), wit.discriminant_size(len(names)))

    def _option(self, type_):
        return OptionOf(self.build(type_.payload))

    def _result(self, type_):
        return ResultOf([self._payload(type_.ok), self._payload(type_.err)])

    def _flags(self, type_):
        return FlagsOf(len(type_.names), wit.size(type_))

    def _own(self, type_):
        return HandleOf(self.number(type_.resource), True)

    def _borrow(self, type_):
        return HandleOf(self.number(type_.resource), False)


_BUILDERS = {
    wit.Primitive: Builder._primitive, wit.List: Builder._list, wit.Record: Builder._record,
    wit.Tuple: Builder._tuple, wit.Variant: Builder._variant, wit.Enum: Builder._enum,
    wit.Option: Builder._option, wit.Result: Builder._result, wit.Flags: Builder._flags,
    wit.Own: Builder._own, wit.Borrow: Builder._borrow,
}
_PRIMITIVES = {
    "bool": Bool, "char": Char, "string": String,
    "f32": lambda: Float(4), "f64": lambda: Float(8),
    "u8": lambda: Integer(1, False), "u16": lambda: Integer(2, False),
    "u32": lambda: Integer(4, False), "u64": lambda: Integer(8, False),
    "s8": lambda: Integer(1, True), "s16": lambda: Integer(2, True),
    "s32": lambda: Integer(4, True), "s64": lambda: Integer(8, True),
}
_ENCODINGS = {"utf8": UTF8, "utf16": UTF16, "latin1+utf16": LATIN1_UTF16}


def _mentions(type_, kind, seen=None):
    """Whether a type contains a handle of this kind. `seen`: types may share parts."""
    seen = set() if seen is None else seen
    if type_ is None or id(type_) in seen:
        return False
    seen.add(id(type_))
    return isinstance(type_, kind) or any([_mentions(part, kind, seen) for part in _children(type_)])


def _children(type_):
    if isinstance(type_, wit.List):
        return (type_.element,)
    if isinstance(type_, wit.Tuple):
        return type_.elements
    if isinstance(type_, wit.Record):
        return tuple([field for _, field in type_.fields])
    if isinstance(type_, (wit.Variant, wit.Option, wit.Result)):
        return wit.cases(type_)
    return ()
