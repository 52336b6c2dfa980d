# A real Tryton 6.0 for tests and the demo: SQLite, loopback, its own folder.
#
#   my $erp = SyncExt::Tryton->new;          # not started yet
#   $erp->start;                             # started, chart of accounts and all
#   $erp->ids->{company}, $erp->url, $erp->db ...
#   $erp->call('model.party.party.search', [['code', '=', 'C-1']], 0, 1, undef, $erp->context);
#   $erp->stop;                              # also when the object goes away
#
# Making and provisioning the database takes some 15 s, so it is done once and
# kept as a file (see cache_dir); every later start copies that file.
package SyncExt::Tryton;

use strict;
use warnings;
use parent 'SyncExt::Tryton::Books';

use Carp qw(croak);
use Cwd qw(abs_path);
use Digest::MD5 qw(md5_hex);
use Fcntl qw(:flock);
use File::Basename qw(dirname);
use File::Copy qw(copy);
use File::Path qw(make_path remove_tree);
use File::Spec;
use File::Temp qw(tempdir);
use HTTP::Tiny;
use IO::Socket::INET;
use IPC::Open2 qw(open2);
use JSON::PP;
use Math::BigFloat;
use MIME::Base64 qw(encode_base64);
use POSIX qw(:sys_wait_h setsid);
use Time::HiRes qw(sleep time);

# By absolute path: another python3 may come first in PATH, and these scripts
# need the one that Debian's modules are installed for.
use constant TRYTOND       => '/usr/bin/trytond';
use constant TRYTOND_ADMIN => '/usr/bin/trytond-admin';
use constant DATABASE      => 'tryton';
use constant PASSWORD      => 'admin';
use constant MODULES       => qw(account_invoice account_payment account_product sale sale_subscription);

my $JSON = JSON::PP->new->utf8->canonical->allow_nonref;

#----------------------------------------------------------------------
# Values. Amounts stay text: JSON numbers would pass through a binary float.
#----------------------------------------------------------------------

sub decimal { return { __class__ => 'Decimal', decimal => "$_[-1]" } }

sub date
{
	my ($year, $month, $day) = $_[-1] =~ /^(\d{4})-(\d\d)-(\d\d)$/
	  or croak "not a date: $_[-1]";
	return { __class__ => 'date', year => $year + 0, month => $month + 0, day => $day + 0 };
}

sub datetime
{
	my ($year, $month, $day, $hour, $minute, $second, $fraction) =
	  $_[-1] =~ /^(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?/
	  or croak "not a timestamp: $_[-1]";
	return {
		__class__ => 'datetime',
		year => $year + 0, month => $month + 0, day => $day + 0,
		hour => $hour + 0, minute => $minute + 0, second => $second + 0,
		microsecond => substr(($fraction // '') . '000000', 0, 6) + 0
	};
}

# Tryton's classes, anywhere inside a result, as plain text.
sub plain
{
	my $value = $_[-1];
	return [ map { plain($_) } @$value ] if ref $value eq 'ARRAY';
	return $value ? 1 : 0 if JSON::PP::is_bool($value);
	return $value if ref $value ne 'HASH';

	my $class = $value->{__class__} // '';
	return $value->{decimal} if $class eq 'Decimal';
	return sprintf('%04d-%02d-%02d', @$value{qw(year month day)}) if $class eq 'date';
	return sprintf('%04d-%02d-%02d %02d:%02d:%02d.%06d',
		@$value{qw(year month day hour minute second microsecond)}) if $class eq 'datetime';
	return { map { $_ => plain($value->{$_}) } keys %$value };
}

#----------------------------------------------------------------------
# Life cycle
#----------------------------------------------------------------------

# Options: dir (kept if given, else temporary), port (else a free one), currency
# of the company's books (EUR), and session_timeout (idle seconds after which a
# session may no longer post).
sub new
{
	my ($class, %option) = @_;

	my $self = bless {
		currency => 'EUR',
		%option,
		owner  => $$,
		keep   => defined $option{dir},
		id     => 0,
		client => HTTP::Tiny->new(timeout => 120, keep_alive => 0),
	}, $class;
	$self->{dir} //= tempdir('sync_ext_tryton_XXXXXX', TMPDIR => 1);
	make_path($self->{dir});
	$self->{dir} = abs_path($self->{dir});
	return $self;
}

sub db       { return DATABASE }
sub user     { return 'admin' }
sub password { return PASSWORD }
sub port     { return $_[0]{port} }
sub pid      { return $_[0]{pid} }
sub dir      { return $_[0]{dir} }
sub base     { return "http://127.0.0.1:$_[0]{port}" }
sub url      { return $_[0]->base . '/' . DATABASE . '/' }
sub log_file { return "$_[0]{dir}/trytond.log" }

# What every call passes as its last argument, and needs to.
sub context { my $self = shift; return { company => $self->ids->{company}, @_ } }

# Ids of what provision() made, by name.
sub ids { return $_[0]{ids} }

# Everything that another process needs to use this server, as a hash.
sub description
{
	my ($self) = @_;
	return {
		url      => $self->base,
		db       => $self->db,
		user     => $self->user,
		password => $self->password,
		pid      => $self->{pid},
		port     => $self->{port} + 0,
		dir      => $self->{dir},
		ids      => $self->ids,
	};
}

# An object for a server that another process started in this folder.
sub attach
{
	my ($class, $dir) = @_;
	my $known = _read_json("$dir/tryton.json");
	my $self  = $class->new(dir => $dir, port => $known->{port});
	$self->{attached} = 1;
	$self->{ids}      = $known->{ids};
	$self->{pid}      = $known->{pid};
	return $self;
}

# Copy the prepared database, if there is none here yet, and serve it. After a
# stop() it starts again with the same data, on the same port.
sub start
{
	my ($self) = @_;
	my $database = "$self->{dir}/db/" . DATABASE . '.sqlite';

	if (!-s $database)
	{
		my $template = _template($self->{currency});
		make_path("$self->{dir}/db");
		copy("$template.sqlite", $database) or die "cannot copy $template.sqlite: $!\n";
		copy("$template.json", "$self->{dir}/ids.json") or die "cannot copy $template.json: $!\n";
	}
	$self->{ids} = _read_json("$self->{dir}/ids.json");
	$self->_serve;
	$self->{attached} = 0;    # whoever started it before: now it is ours
	return $self;
}

sub stop
{
	my ($self) = @_;
	my $pid = delete $self->{pid} or return;

	kill 'TERM', $pid;
	for my $round (1 .. 100)
	{
		if ($self->{attached} ? !kill(0, $pid) : waitpid($pid, WNOHANG) != 0)
		{
			$self->{session} = undef;
			return;
		}
		kill 'KILL', $pid if $round == 80;
		sleep 0.05;
	}
	die "trytond $pid does not end\n";
}

sub DESTROY
{
	my ($self) = @_;
	local ($., $@, $!, $^E, $?);
	return if $self->{attached} || $self->{detached} || $self->{owner} != $$;
	eval { $self->stop; 1 } or warn $@;
	remove_tree($self->{dir}) if !$self->{keep};
}

# Leave the server running after this process; attach() finds it again.
sub detach
{
	my ($self) = @_;
	$self->{detached} = 1;
	_write_file("$self->{dir}/tryton.json", $JSON->encode($self->description));
}

#----------------------------------------------------------------------
# Remote procedure calls
#----------------------------------------------------------------------

# HTTP status, decoded body (undef when it is not JSON), headers.
sub request
{
	my ($self, $method, @params) = @_;
	my %header = ('Content-Type' => 'application/json');
	$header{Authorization} = 'Session ' . encode_base64($self->{session}, '')
	  if defined $self->{session} && $method ne 'common.db.login';

	my $response = $self->{client}->post(
		$self->url,
		{
			headers => \%header,
			content => $JSON->encode({ id => ++$self->{id}, method => $method, params => \@params }),
		});
	my $body = eval { $JSON->decode($response->{content}) };
	return ($response->{status}, $body, $response->{headers}, $response->{content});
}

sub login
{
	my ($self) = @_;
	my ($status, $body, undef, $text) =
	  $self->request('common.db.login', $self->user, { password => $self->password }, 'en');
	croak "login: HTTP $status $text" if $status != 200 || !$body->{result};
	$self->{session} = join ':', $self->user, @{ $body->{result} };
	return;
}

# The result, or die with "Type: message". Logs in, and again when the session
# has run out.
sub call
{
	my ($self, $method, @params) = @_;
	my ($status, $body, $text);

	$self->login if !defined $self->{session};
	for my $round (1, 2)
	{
		($status, $body, undef, $text) = $self->request($method, @params);
		last if $status != 401 || $round == 2;
		$self->login;
	}
	croak "$method: HTTP $status " . substr($text // '', 0, 500) if $status != 200 || !defined $body;
	if (my $error = $body->{error})
	{
		my ($type, $detail) = @$error;
		$detail = $detail->[0] if ref $detail eq 'ARRAY';
		croak "$method: $type: $detail";
	}
	return $body->{result};
}

# Like call(), for the models: the context is added.
sub model
{
	my ($self, $method, @params) = @_;
	return $self->call("model.$method", @params, $self->context);
}

#----------------------------------------------------------------------
# What tests and the demo read and do
#----------------------------------------------------------------------

sub parties
{
	my ($self) = @_;
	return plain($self->model('party.party.search_read',
		[ [ 'code', '!=', 'COMPANY' ] ], 0, undef, [ [ 'id', 'ASC' ] ],
		[qw(code name email active create_date write_date)]));
}

# Customer invoices, with party and currency as codes.
sub invoices
{
	my ($self, @domain) = @_;
	my $rows = plain($self->model('account.invoice.search_read',
		[ [ 'type', '=', 'out' ], @domain ], 0, undef, [ [ 'id', 'ASC' ] ],
		[qw(number reference description state invoice_date accounting_date untaxed_amount
			tax_amount total_amount party.code currency.code write_date)]));
	for my $row (@$rows)
	{
		$row->{party}    = delete($row->{'party.'})->{code};
		$row->{currency} = delete($row->{'currency.'})->{code};
	}
	return $rows;
}

# Posted and paid invoices: currency => total as text with the currency's digits.
sub totals_by_currency
{
	my ($self) = @_;
	my %sum;
	for my $row (@{ $self->invoices([ 'state', 'in', [ 'posted', 'paid' ] ]) })
	{
		my $sum = $sum{ $row->{currency} } //= Math::BigFloat->new(0);
		$sum->badd($row->{total_amount});
	}
	my %digits = map { $_->{code} => $_->{digits} }
	  @{ $self->model('currency.currency.search_read', [], 0, undef, undef, [qw(code digits)]) };
	return { map { $_ => $sum{$_}->copy->bfround(-$digits{$_})->bstr } keys %sum };
}

# Parties, posted and paid invoices and payments by the thousand, straight into the database: see bin/tryton-load,
# which says what a record is. Returns how many of each kind. Options: company.
sub load
{
	my ($self, $records, %option) = @_;
	my @command = (dirname(__FILE__) . '/../../bin/tryton-load', $self->{dir});

	push @command, '--company', $option{company} if $option{company};
	my $pid = open2(my $out, my $in, '/usr/bin/python3', @command);
	print $in map { ref $_ ? $JSON->encode($_) . "\n" : "$_\n" } @$records;
	close $in;
	my $answer = do { local $/; <$out> };
	waitpid $pid, 0;
	croak 'tryton-load failed' if $? != 0;
	return $JSON->decode($answer);
}

sub party_id
{
	my ($self, $code) = @_;
	return $self->model('party.party.search', [ [ 'code', '=', $code ] ], 0, 1, undef)->[0];
}

sub rename_party
{
	my ($self, $code, $name) = @_;
	my $id = $self->party_id($code) // croak "no party has the code $code";
	$self->model('party.party.write', [$id], { name => $name });
	return $id;
}

#----------------------------------------------------------------------
# The server process
#----------------------------------------------------------------------

sub _serve
{
	my ($self) = @_;
	my $config = "$self->{dir}/trytond.conf";

	for my $attempt (1 .. 5)
	{
		my $port = $self->{port} // _free_port();
		_write_file($config, join "\n",
			'[web]', "listen = 127.0.0.1:$port",
			'[database]', 'uri = sqlite://', "path = $self->{dir}/db",
			'[session]', 'timeout = ' . ($self->{session_timeout} // 300), '');
		my $pid = $self->_spawn(TRYTOND, '-c', $config, '-d', DATABASE);
		if (_answers($port, $pid))
		{
			@$self{qw(port pid)} = ($port, $pid);
			return;
		}
		# Somebody took the port in between, perhaps.
		kill 'KILL', $pid;
		waitpid $pid, 0;
	}
	die "trytond does not start, see " . $self->log_file . ":\n" . _tail($self->log_file);
}

# Start a program in its own session, its output appended to the log.
sub _spawn
{
	my ($self, @command) = @_;
	my $pid = fork // die "cannot fork: $!\n";
	return $pid if $pid;

	setsid();
	open STDIN, '<', File::Spec->devnull or POSIX::_exit(126);
	open STDOUT, '>>', $self->log_file or POSIX::_exit(126);
	open STDERR, '>&', \*STDOUT or POSIX::_exit(126);
	delete @ENV{ grep { /^(PYTHON|PYENV)/ } keys %ENV };
	@ENV{qw(LC_ALL TZ)} = ('C.UTF-8', 'UTC');
	chdir $self->{dir};
	exec { $command[0] } @command or POSIX::_exit(127);
}

# Does our process, and not another on that port, answer a request?
sub _answers
{
	my ($port, $pid) = @_;
	my $client = HTTP::Tiny->new(timeout => 5);
	my $deadline = time + 60;

	while (time < $deadline)
	{
		my $response = $client->post("http://127.0.0.1:$port/", {
			headers => { 'Content-Type' => 'application/json' },
			content => '{"id":0,"method":"common.server.version","params":[]}' });
		if ($response->{status} == 200)
		{
			return kill(0, $pid) && waitpid($pid, WNOHANG) == 0;
		}
		return 0 if waitpid($pid, WNOHANG) != 0;
		sleep 0.1;
	}
	return 0;
}

#----------------------------------------------------------------------
# The prepared database
#----------------------------------------------------------------------

# Its folder: SYNC_EXT_CACHE, else one in the temporary folder that nobody else
# can write to.
sub cache_dir
{
	my $dir = $ENV{SYNC_EXT_CACHE} // File::Spec->tmpdir . "/sync_ext_cache_$<";
	make_path($dir, { mode => 0700 });
	my @stat = stat $dir or die "cannot use $dir: $!\n";
	die "$dir belongs to somebody else\n" if $stat[4] != $<;
	return $dir;
}

# Path, without suffix, of a provisioned database for the installed packages,
# these files, this year and that currency; made if missing. One process makes it,
# others wait.
sub _template
{
	my ($currency) = @_;
	my $versions = qx(dpkg-query -W -f '\${Package} \${Version}\\n' 'tryton-*' 2>/dev/null) || 'unknown';
	my @source = map { _read_file($_) } __FILE__, $INC{'SyncExt/Tryton/Books.pm'};
	my $key = md5_hex(join '', $versions, __PACKAGE__->_this_year, $currency, @source);
	my $template = cache_dir() . "/tryton_$key";

	open my $lock, '>', "$template.lock" or die "cannot create $template.lock: $!\n";
	flock $lock, LOCK_EX or die "cannot lock $template.lock: $!\n";
	return $template if -s "$template.sqlite" && -s "$template.json";

	my $self = __PACKAGE__->new(currency => $currency);
	$self->_initialise;
	$self->_serve;
	my $ids = $self->provision;
	$self->stop;
	_write_file("$template.json", $JSON->encode($ids));
	copy("$self->{dir}/db/" . DATABASE . '.sqlite', "$template.new") or die "cannot copy: $!\n";
	rename "$template.new", "$template.sqlite" or die "cannot rename: $!\n";
	return $template;
}

sub _initialise
{
	my ($self) = @_;
	my $config = "$self->{dir}/trytond.conf";

	make_path("$self->{dir}/db");
	_write_file("$self->{dir}/db/" . DATABASE . '.sqlite', '');    # must exist
	_write_file("$self->{dir}/password", PASSWORD . "\n");
	_write_file($config, "[database]\nuri = sqlite://\npath = $self->{dir}/db\n");

	local $ENV{TRYTONPASSFILE} = "$self->{dir}/password";
	my $pid = $self->_spawn(TRYTOND_ADMIN, '-c', $config, '-d', DATABASE, '--all',
		'-u', MODULES, '--activate-dependencies', '--email', 'admin@example.com', '-p');
	waitpid $pid, 0;
	die "trytond-admin failed:\n" . _tail($self->log_file) if $? != 0;
}

#----------------------------------------------------------------------
# Small things
#----------------------------------------------------------------------

sub _free_port
{
	my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 1)
	  or die "no free port: $!\n";
	return $socket->sockport;
}

sub _write_file
{
	my ($path, $content) = @_;
	open my $file, '>', $path or die "cannot write $path: $!\n";
	print $file $content;
	close $file or die "cannot write $path: $!\n";
}

sub _read_file
{
	my ($path) = @_;
	open my $file, '<', $path or die "cannot read $path: $!\n";
	local $/;
	return scalar <$file>;
}

sub _read_json { return $JSON->decode(_read_file($_[0])) }

sub _tail
{
	my ($path) = @_;
	open my $file, '<', $path or return '';
	my @line = <$file>;
	return join '', @line > 30 ? @line[ -30 .. -1 ] : @line;
}

1;
