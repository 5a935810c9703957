# SPDX-License-Identifier: MIT
"""The grammar of GRUB's script language, as GRUB 2.06 and 2.12 have it, which is narrower than a shell's.

Commands with an optional block, `if`, `for`, `while`, `until`, and `function` outside of everything else. There is no
`case`, no `&&`, no pipe; a block holds at least one command. A statement that does not fit is skipped up to the end of
its line, as GRUB does, and stays in the tree as Broken: whoever runs into it knows that something is missing.
"""

from __future__ import annotations

from dataclasses import dataclass

from kexecd.discover.grub.lexer import NAME, At, Lexer, NotUnderstood, Token, TokenKind, Word, split

DEEPEST = 50  # blocks inside of each other; GRUB stops running at 100 levels


@dataclass(frozen=True, slots=True)
class Command:
    words: tuple[Word, ...]
    block: Block | None
    at: At


@dataclass(frozen=True, slots=True)
class If:
    arms: tuple[tuple[Block, Block], ...]  # condition, and what it leads to
    otherwise: Block
    at: At


@dataclass(frozen=True, slots=True)
class For:
    name: str
    words: tuple[Word, ...]
    body: Block
    at: At


@dataclass(frozen=True, slots=True)
class While:
    condition: Block
    body: Block
    until: bool
    at: At


@dataclass(frozen=True, slots=True)
class Function:
    name: str
    body: Block
    at: At


@dataclass(frozen=True, slots=True)
class Broken:
    why: str
    at: At


Statement = Command | If | For | While | Function | Broken
Block = tuple[Statement, ...]


def parse(text: str, file: str) -> Block:
    """The statements of a configuration file; any text is one, if only of Broken ones."""
    return _Parser(Lexer(text, file)).file()


class _Parser:
    def __init__(self, lexer: Lexer) -> None:
        self._lexer = lexer
        self._depth = 0
        self._token: Token | None = None

    def file(self) -> Block:
        statements: list[Statement] = []
        while True:
            try:
                self._newlines()
                if self._peek().kind is TokenKind.END:
                    return tuple(statements)
                statement = self._function() if self._peek().keyword == "function" else self._command()
                if not self._delimiter():
                    raise self._unexpected()
                statements.append(statement)
            except NotUnderstood as trouble:
                at = trouble.at or self._peek().at
                statements.append(Broken(trouble.why, at))
                # Look at no token twice: the rest of the line that is broken is thrown away.
                newline = self._token is not None and self._token.kind is TokenKind.NEWLINE
                self._token, self._depth = None, 0
                if not newline:
                    self._lexer.skip_line()

    def _peek(self) -> Token:
        if self._token is None:
            self._token = self._lexer.next()
        return self._token

    def _take(self) -> Token:
        token = self._peek()
        self._token = None
        return token

    def _unexpected(self) -> NotUnderstood:
        token = self._peek()
        what = token.raw if token.kind in (TokenKind.WORD, TokenKind.OPERATOR) else token.kind
        return NotUnderstood(f"{what} in this place", token.at)

    def _newlines(self) -> None:
        while self._peek().kind is TokenKind.NEWLINE:
            self._take()

    def _delimiter(self) -> bool:
        """Whether a statement ends here; takes what ends it."""
        if self._peek().kind not in (TokenKind.NEWLINE, TokenKind.SEMICOLON):
            return False
        self._take()
        self._newlines()
        return True

    def _keyword(self, *wanted: str) -> str:
        if self._peek().keyword not in wanted:
            raise self._unexpected()
        return self._take().raw

    def _function(self) -> Function:
        at = self._take().at
        name = self._take()
        if name.kind is not TokenKind.WORD or not NAME.match(name.raw) or name.keyword:
            raise NotUnderstood("a function without a name", name.at)
        self._newlines()
        if self._peek().kind is not TokenKind.OPEN:
            raise self._unexpected()
        return Function(name.raw, self._block(), at)

    def _block(self) -> Block:
        self._take()
        body = self._commands()
        if self._peek().kind is not TokenKind.CLOSE:
            raise self._unexpected()
        self._take()
        return body

    def _commands(self, *ends: str) -> Block:
        """One command or more, up to a closing brace or one of the keywords, which is not taken."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise NotUnderstood("blocks nested too deeply", self._peek().at)
        self._newlines()
        commands: list[Statement] = [self._command()]
        while self._delimiter() and not self._at_end(ends):
            commands.append(self._command())
        self._depth -= 1
        return tuple(commands)

    def _at_end(self, ends: tuple[str, ...]) -> bool:
        token = self._peek()
        return token.keyword in ends if ends else token.kind is TokenKind.CLOSE

    def _command(self) -> Statement:
        token = self._peek()
        match token.keyword:
            case "if":
                return self._if()
            case "for":
                return self._for()
            case "while" | "until":
                return self._while()
            case "" if token.kind is TokenKind.WORD:
                words = self._words()
                block = self._block() if self._peek().kind is TokenKind.OPEN else None
                return Command(words, block, token.at)
        raise self._unexpected()

    def _words(self) -> tuple[Word, ...]:
        words = []
        while self._peek().kind is TokenKind.WORD:
            if self._peek().raw in ("[[", "]]"):
                raise self._unexpected()
            words.append(split(self._take()))
        return tuple(words)

    def _if(self) -> If:
        at = self._take().at
        arms: list[tuple[Block, Block]] = []
        while True:
            condition = self._commands("then")
            self._keyword("then")
            arms.append((condition, self._commands("elif", "else", "fi")))
            end = self._keyword("elif", "else", "fi")
            if end == "fi":
                return If(tuple(arms), (), at)
            if end == "else":
                otherwise = self._commands("fi")
                self._keyword("fi")
                return If(tuple(arms), otherwise, at)

    def _for(self) -> For:
        at = self._take().at
        name = self._take()
        if name.kind is not TokenKind.WORD or not NAME.match(name.raw) or name.keyword:
            raise NotUnderstood("a loop without the name of a variable", name.at)
        self._keyword("in")
        words = self._words()
        if not self._delimiter():
            raise self._unexpected()
        return For(name.raw, words, self._loop(), at)

    def _while(self) -> While:
        token = self._take()
        condition = self._commands("do")
        return While(condition, self._loop(), token.raw == "until", token.at)

    def _loop(self) -> Block:
        self._keyword("do")
        body = self._commands("done")
        self._keyword("done")
        return body
